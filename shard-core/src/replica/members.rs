//! Carries out which members a group is to have, on its leader, and tells the shardmaster how far it is.
//!
//! Members are desired state: the map says which voters a group is to have, and which configuration wants them.
//! The group's log has the number that it follows, in each of its Raft configuration entries, and it never
//! falls. So a wish is carried out if it is newer than what the log has, and never otherwise: a leader that
//! knows only an older map does nothing. A wish that changes nobody is written as well, since a leader with the map
//! before it could still act on that.
//!
//! The steps of a change are Raft's own: who comes is a learner first, and the joint configuration is written once
//! all have caught up. What is refused meanwhile is tried again.

use super::{Replica, ReplicaOutput};
use crate::cluster_map::{ClusterMap, GroupMembers};
use crate::codec::EntryItem;
use crate::machine::Machine;
use crate::shard_store::{Mutant, is_broken};
use crate::shardmaster::{MasterOp, MasterRequest};
#[cfg(test)]
use raft_core::conf::Conf;
use raft_core::conf::ConfChange;
use raft_core::effects::Role;
use raft_core::types::{GroupId, Now};

const MS: Now = 1_000_000;
/// A change that was refused, or a report that the map does not show, comes again after so long; twice as long
/// each time.
const RETRY_NS_MIN: Now = 100 * MS;
/// At most so long.
const RETRY_NS_MAX: Now = 3_000 * MS;
/// What a report counts as in an entry. Bytes.
const REPORT_BYTES: usize = 512;

/// What a leader remembers of the members of its group. Losing it costs a message.
#[derive(Debug, Default)]
pub(super) struct Members {
    wish: Retry,
    report: Retry,
}

/// When something is tried again.
#[derive(Debug, Default)]
struct Retry {
    at: Option<Now>,
    wait: Now,
}

impl Retry {
    /// Whether it is time. If so, it is noted as tried.
    fn is_due(&mut self, now: Now) -> bool {
        if self.at.is_some_and(|at| now < at) {
            return false;
        }
        self.wait = (self.wait * 2).clamp(RETRY_NS_MIN, RETRY_NS_MAX);
        self.at = Some(now.saturating_add(self.wait));
        true
    }
}

impl Members {
    pub(super) fn deadline(&self) -> Option<Now> {
        self.wish.at.into_iter().chain(self.report.at).min()
    }
}

impl Replica {
    /// Proposes the change that the map wants, if the group does not follow it yet.
    pub(super) fn drive_members(&mut self, now: Now, map: &ClusterMap) {
        let leads = self.role.role == Role::Leader && self.settled;
        let Some((wanted, voters)) = map.wanted_members(self.group).filter(|_| leads) else {
            self.members.wish = Retry::default();
            return;
        };
        let conf = self.raft.conf();
        let mut follows = wanted.0;
        let mut is_new = follows > conf.follows;
        if is_broken(Mutant::OlderWish) {
            let target = if conf.goal.is_empty() { &conf.voters } else { &conf.goal };
            is_new |= target != voters;
            follows = follows.max(conf.follows);
        }
        if is_broken(Mutant::FollowsNotNoted) && conf.goal.is_empty() {
            is_new &= conf.voters != voters;
        }
        if !is_new {
            self.members.wish = Retry::default();
        } else if self.members.wish.is_due(now) {
            let change = ConfChange { voters: voters.to_vec(), learners: Vec::new(), follows };
            // Refused, it is tried again: a change may be under way, or a node that is to come is down.
            let _ = self.raft.change_conf(now, &change);
        }
    }

    /// Tells the shardmaster which members are committed, until the map shows it.
    pub(super) fn report_members(&mut self, now: Now, map: &ClusterMap, out: &mut ReplicaOutput) {
        let conf = match is_broken(Mutant::ReportUncommitted) {
            true => self.raft.conf(),
            false => self.raft.committed_conf(),
        };
        let members = GroupMembers::of(conf).filter(|members| {
            let known = map.reported_members(self.group);
            known.is_none_or(|known| members.order() > known.order())
        });
        let leads = self.role.role == Role::Leader && self.settled;
        match members.filter(|_| leads) {
            Some(members) if self.members.report.is_due(now) => out.members = Some(members),
            Some(_) => {}
            None => self.members.report = Retry::default(),
        }
    }

    /// The configuration of its members that counts, committed or not.
    #[cfg(test)]
    pub(crate) fn conf(&self) -> &Conf {
        self.raft.conf()
    }

    /// The newest configuration of its members that is surely committed.
    #[cfg(test)]
    pub(crate) fn committed_conf(&self) -> &Conf {
        self.raft.committed_conf()
    }

    /// A group's leader says who is in it: an entry, if it is news to the shardmaster here.
    pub(crate) fn on_members(&mut self, group: GroupId, members: GroupMembers) {
        let Machine::Master(master) = &self.machine else { return };
        let leads = self.role.role == Role::Leader && self.settled;
        if leads && members.is_possible() && master.is_news(group, &members) && !self.is_full() {
            let request = MasterRequest { id: None, op: MasterOp::GroupConf { group, members } };
            self.batch.push(EntryItem::Master(request), None, REPORT_BYTES);
        }
    }
}
