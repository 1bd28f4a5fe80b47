//! What is demanded once everything is whole again: nothing is left of any move, group or change of members.

use super::world::{World, every_group};
use shard_core::cluster_map::{ClusterMap, MemberStep};
use shard_core::machine::Machine;
use shard_core::slot::Slot;

impl World {
    /// Whether nothing is left of any move, anywhere, and every slot is where it is to be.
    pub(super) fn is_settled(&self) -> Result<(), String> {
        let nodes: Vec<_> =
            self.hosts.iter().filter_map(|(id, h)| Some((id, h.node.as_ref()?))).collect();
        let newest = nodes.iter().map(|(_, node)| node.view().map).max_by_key(|map| map.version);
        let newest = newest.ok_or("no node runs")?;
        for (id, node) in &nodes {
            let map = node.view().map;
            if map.version != newest.version {
                return Err(format!("node {id} has map {} of {}", map.version, newest.version));
            }
            if let Some(record) = map.moves.values().next() {
                let stands: Vec<_> = self.stands(record.order.slot);
                return Err(format!("node {id}: {record:?}: {stands:#?}"));
            }
            if let Some((slot, waiting)) = map.waiting.iter().next() {
                return Err(format!("slot {slot} waits: {waiting:?}"));
            }
            for group in every_group() {
                let Some(replica) = node.replica(group) else { continue };
                let store = match replica.machine() {
                    Some(Machine::Shard(store)) => store,
                    Some(Machine::Master(_)) => continue,
                    None => return Err(format!("node {id}, group {group} installs a snapshot")),
                };
                if let Some(slot) = store.moving().next() {
                    let stand = store.stand(slot);
                    return Err(format!("node {id}, group {group}, slot {slot}: {stand:?}"));
                }
            }
        }
        self.has_members(&newest)?;
        self.has_no_leftovers(&newest)?;
        for range in &newest.config.slots {
            for slot in range.first.0..=range.last.0 {
                let owner = newest.owners.of(Slot(slot)).map(|(group, _)| group);
                if owner != Some(range.group) {
                    return Err(format!("slot {slot} is at {owner:?} and not {}", range.group));
                }
            }
        }
        Ok(())
    }

    /// Whether each group has the members that it is to have, and no replica is anywhere else.
    fn has_members(&self, newest: &ClusterMap) -> Result<(), String> {
        for (group, seats) in &newest.config.groups {
            if let Some((wanted, voters)) = newest.wanted_members(*group) {
                let settled = newest.reported_members(*group).filter(|members| {
                    members.step == MemberStep::Settled && members.follows == wanted
                });
                if settled.is_none_or(|members| members.voters != voters) {
                    return Err(format!("group {group}: {:?}", newest.members.get(group)));
                }
            }
            for (id, host) in &self.hosts {
                let node = host.node.as_ref().ok_or("a node does not run")?;
                let (there, seated) = (node.replica(*group).is_some(), seats.voters.contains(id));
                if there != seated {
                    return Err(format!(
                        "group {group} on node {id}: a replica {there}, a seat {seated}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether of groups that are no more nobody has a replica, and no disk anything but a term and a vote (D5,
    /// R21).
    fn has_no_leftovers(&self, newest: &ClusterMap) -> Result<(), String> {
        for group in every_group().filter(|group| !newest.config.groups.contains_key(group)) {
            for (id, host) in &self.hosts {
                let node = host.node.as_ref().ok_or("a node does not run")?;
                if node.replica(group).is_some() {
                    return Err(format!(
                        "a replica of group {group}, which is no more, on node {id}"
                    ));
                }
                if host.disk.has_more_than_a_vote(group) {
                    return Err(format!("data of group {group}, which is no more, on node {id}"));
                }
            }
        }
        Ok(())
    }

    /// How a slot stands everywhere.
    fn stands(&self, slot: Slot) -> Vec<String> {
        let nodes = self.hosts.iter().filter_map(|(id, host)| Some((id, host.node.as_ref()?)));
        let all = nodes.flat_map(|(id, node)| {
            every_group().filter_map(move |group| Some((id, group, node.replica(group)?)))
        });
        all.map(|(id, group, replica)| match replica.machine() {
            Some(Machine::Shard(store)) => {
                let (led, stand) = (replica.leads(), store.stand(slot));
                format!("node {id}, group {group}, leads {led}: {stand:?}")
            }
            Some(Machine::Master(_)) => format!("node {id}, leads group 0: {}", replica.leads()),
            None => format!("node {id}, group {group} installs a snapshot"),
        })
        .collect()
    }
}
