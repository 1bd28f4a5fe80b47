//! What must come of whatever happened to [`Pairs`].

use super::{MS, Machine, Pairs};
use raft_core::conf::Conf;
use raft_core::types::NodeId;
use std::collections::BTreeSet;

impl Pairs {
    /// Nodes on which all works: a process, its worker, its disk, and a replica that has a say.
    fn healthy(&self) -> BTreeSet<NodeId> {
        let well = |(id, machine): (&NodeId, &Machine)| {
            let works = machine.pairs.is_some() && !machine.stalled && !machine.stuck;
            let member = !machine.deleted || self.conf.1.is_member(*id);
            (works && member).then_some(*id)
        };
        self.machines.iter().filter_map(well).collect()
    }

    /// Whether those on which all works can hear each other and are a majority of every configuration
    /// that is in any log: then there must be a leader.
    pub fn must_have_a_leader(&self) -> bool {
        let healthy = self.healthy();
        let joined =
            healthy.iter().all(|a| healthy.iter().all(|b| a == b || !self.is_held(*a, *b)));
        let newest = |id: &NodeId| {
            let confs = self.world.log(*id).iter().filter_map(Conf::of_entry);
            confs.last().or_else(|| self.first_conf(*id))
        };
        let mut confs = self.machines.keys().filter_map(newest).chain([self.conf.1.clone()]);
        joined && confs.all(|conf| conf.is_majority(|id| healthy.contains(&id)))
    }

    /// What a replica that was there from the beginning began with.
    fn first_conf(&self, id: NodeId) -> Option<Conf> {
        let raft = self.world.host(id).raft.as_ref()?;
        Some(raft.status().conf).filter(|conf| !conf.voters.is_empty())
    }

    /// A leader that a majority follows, which commits something new.
    pub fn has_a_leader(&mut self) -> bool {
        let Some(leader) = self.world.leader() else { return false };
        let Some(command) = self.propose(leader) else { return false };
        let Some(raft) = &self.world.host(leader).raft else { return false };
        let commit = raft.status().commit;
        self.world.log(leader)[..commit.0 as usize].iter().any(|entry| entry.payload() == command)
    }

    /// One leader, and every member that runs follows it and has what it has.
    pub fn is_whole(&self) -> bool {
        let Some(leader) = self.world.leader() else { return false };
        let Some(raft) = &self.world.host(leader).raft else { return false };
        let status = raft.status();
        let same = |id: &NodeId| {
            let Some(raft) = &self.world.host(*id).raft else { return !self.runs(*id) };
            let other = raft.status();
            !status.conf.is_member(*id)
                || (other.leader == Some(leader)
                    && (other.last, other.commit) == (status.last, status.commit)
                    && self.world.state(*id) == self.world.state(leader))
        };
        status.conf == self.conf.1 && self.ids().iter().all(same)
    }

    /// Whether each node believes exactly what the others claim.
    pub fn claims_agree(&self) -> bool {
        let ids = self.ids();
        let mut directions = ids.iter().flat_map(|a| ids.iter().map(|b| (*a, *b)));
        directions.all(|(a, b)| {
            let status = |at: NodeId, of: NodeId| {
                let pairs = self.machines[&at].pairs.as_ref()?;
                pairs.status(self.now).remove(&of)
            };
            match (status(a, b), status(b, a)) {
                (Some(here), Some(there)) => here.claimed == there.believed,
                (None, _) | (_, None) => true,
            }
        })
    }

    /// All that was wrong is mended: every process runs, everything arrives again.
    pub fn mend(&mut self) {
        for (from, to) in self.held.keys().copied().collect::<Vec<_>>() {
            self.release(from, to, true);
        }
        for id in self.ids() {
            self.stick(id, false);
            self.stall(id, false);
            if !self.runs(id) {
                self.start(id);
            }
        }
    }

    /// For messages of failures.
    pub fn describe(&self) -> String {
        let mut text = format!("at {} ms, committed {:?}\n", self.now / MS, self.conf);
        for (id, machine) in &self.machines {
            let status = self.world.host(*id).raft.as_ref().map(|raft| raft.status());
            let pairs = machine.pairs.as_ref().map(|pairs| pairs.status(self.now));
            text += &format!("n{id} {status:?}\n   {pairs:?}\n");
        }
        text + &format!("held {:?}", self.held.keys())
    }
}
