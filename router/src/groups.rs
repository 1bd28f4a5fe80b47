//! Who is in which group: what is wanted, what is so, and how far it is. CLUSTER GROUPS, and what other replies say
//! of members.

use crate::reply::Reply;
use crate::topology::Topology;
use shard_core::cluster_config::{ConfigNum, GroupConfig};
use shard_core::cluster_map::{ClusterMap, MemberStep};
use shard_core::{GroupId, NodeId};

impl Topology<'_> {
    /// CLUSTER GROUPS: each group with its members, those that it is to have and those that it has.
    pub(crate) fn groups_reply(&self) -> Reply {
        let groups = self.view.map.config.groups.iter();
        Reply::Array(groups.map(|(group, config)| self.group_reply(*group, config)).collect())
    }

    fn group_reply(&self, group: GroupId, config: &GroupConfig) -> Reply {
        let map = &self.view.map;
        let number = |num: ConfigNum| Reply::Integer(i64::try_from(num.0).unwrap_or(i64::MAX));
        let wanted = map.wanted_members(group).map_or(ConfigNum(0), |(wanted, _)| wanted);
        let follows = map.reported_members(group).map_or(ConfigNum(0), |members| members.follows);
        let mut nodes: Vec<NodeId> = map.seated(group).collect();
        nodes.extend(
            config.voters.iter().filter(|node| !nodes.contains(node)).copied().collect::<Vec<_>>(),
        );
        nodes.sort_unstable();
        let members = nodes.into_iter().map(|node| self.member_reply(group, config, node));
        let leader = self.leader(group).filter(|_| self.view.leaders.contains_key(&group));
        let text = Reply::word;
        Reply::Map(vec![
            (text("group"), Reply::Integer(i64::from(group.0))),
            (text("weight"), Reply::Integer(i64::from(config.weight))),
            (text("slots"), Reply::Integer(i64::from(map.owners.count(group)))),
            (text("state"), text(member_state(map, group))),
            (text("leader"), leader.map_or(Reply::Nil, |node| Reply::text(self.name(node)))),
            (text("wanted-since-config"), number(wanted)),
            (text("follows-config"), number(follows)),
            (text("members"), Reply::Array(members.collect())),
        ])
    }

    /// A member, or a node that is to be one. How far its log is, its leader's node knows alone.
    fn member_reply(&self, group: GroupId, config: &GroupConfig, node: NodeId) -> Reply {
        let map = &self.view.map;
        let role = match (map.is_learner(group, node), map.seated(group).any(|seat| seat == node)) {
            (true, _) => "learner",
            (false, true) => "voter",
            (false, false) => "none",
        };
        let led = self.replica(group).filter(|replica| replica.leader == self.node);
        let behind = led.and_then(|replica| match self.node == Some(node) {
            true => Some(0),
            false => Some(replica.last.0.saturating_sub(replica.matched.get(&node)?.0)),
        });
        let sending = led.and_then(|replica| replica.sending.get(&node).copied());
        let text = Reply::word;
        Reply::Map(vec![
            (text("node"), Reply::Integer(i64::try_from(node.0).unwrap_or(i64::MAX))),
            (text("id"), Reply::text(self.name(node))),
            (text("role"), text(role)),
            (text("wanted"), Reply::Integer(i64::from(config.voters.contains(&node)))),
            (
                text("entries-behind"),
                behind.map_or(Reply::Nil, |behind| {
                    Reply::Integer(i64::try_from(behind).unwrap_or(i64::MAX))
                }),
            ),
            (text("sending"), sending.map_or(Reply::Nil, |how| Reply::text(how.to_string()))),
        ])
    }

    /// Whether a node has a seat in a group, as a learner or a voter.
    pub(crate) fn has_seat(&self, group: GroupId, node: NodeId) -> bool {
        self.view.map.seated(group).any(|seat| seat == node)
    }

    /// Nodes besides the leader that surely have every acknowledged write of a group. A majority of each set has it
    /// while there are two, of which the larger has half of all at least.
    pub(crate) fn sure_replicas(&self, group: GroupId, config: &GroupConfig) -> usize {
        let map = &self.view.map;
        let is_joint = map.reported_members(group).is_some_and(|m| m.step == MemberStep::Joint);
        let voters = map.voters(group).len();
        let voters = if is_joint { voters.div_ceil(2) } else { voters };
        voters.min(config.voters.len()) / 2
    }
}

/// How far a group is on the way to the members that it is to have.
fn member_state(map: &ClusterMap, group: GroupId) -> &'static str {
    let wanted = map.wanted_members(group).map_or(ConfigNum(0), |(wanted, _)| wanted);
    match map.reported_members(group) {
        Some(members) if members.step == MemberStep::CatchingUp => "catching-up",
        Some(members) if members.step == MemberStep::Joint => "joint",
        Some(members) if members.follows >= wanted => "settled",
        None if wanted == ConfigNum(0) => "settled",
        Some(_) | None => "waiting",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redirect::Port;
    use shard_core::cluster_config::NodeConfig;
    use shard_core::cluster_map::{GroupMembers, Membership};
    use shard_core::slot::SLOTS;
    use shard_core::wire::{ClusterView, LeaderView, NodeStatus, ReplicaStatus};

    const G1: GroupId = GroupId(1);

    /// What group 1 has reported: the step, voters, learners.
    type Report = (MemberStep, &'static [u64], &'static [u64]);
    /// Of a member: node, role, whether it is wanted and how much it lacks.
    type Row = (i64, String, i64, Option<i64>);

    /// Four nodes; group 1 began on 1 to 3, which node 1 leads, and is to be on 1, 2 and 4.
    fn view(reported: Option<Report>) -> ClusterView {
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        let mut view = ClusterView::default();
        for id in (1..=4).map(NodeId) {
            let (peer, resp) = (format!("h:{id}"), format!("h:9{id}"));
            view.map.config.nodes.insert(id, NodeConfig { peer, resp });
        }
        let seats = GroupConfig { voters: ids(&[1, 2, 3]), weight: 1 };
        view.map.config.groups.insert(G1, seats);
        view.map.config.assign_evenly();
        view = ClusterView::of_config(&view.map.config);
        view.map.config.num = ConfigNum(2);
        view.map.config.groups.entry(G1).and_modify(|seats| seats.voters = ids(&[1, 2, 4]));
        let reported = reported.map(|(step, voters, learners)| {
            let (voters, learners) = (ids(voters), ids(learners));
            GroupMembers { follows: ConfigNum(2), step, voters, learners }
        });
        view.map.members.insert(G1, Membership { wanted: ConfigNum(2), reported });
        let led = LeaderView { leader: Some(NodeId(1)), term: Default::default() };
        view.leaders.insert(G1, led);
        view
    }

    fn status() -> NodeStatus {
        let mut replica = ReplicaStatus { leader: Some(NodeId(1)), ..ReplicaStatus::default() };
        replica.last.0 = 100;
        replica.matched.entry(NodeId(4)).or_default().0 = 60;
        replica.sending.insert(NodeId(4), "snapshot");
        let replicas = [(G1, replica)].into();
        NodeStatus { node: NodeId(1), replicas, ..NodeStatus::default() }
    }

    /// The state, and each member.
    fn shown(view: &ClusterView) -> (String, Vec<Row>) {
        let status = status();
        let (led, node) = ([G1].into(), Some(NodeId(1)));
        let topology = Topology { view, led, node, status: Some(&status), port: Port::Plain };
        let Reply::Array(groups) = topology.groups_reply() else { panic!("no array") };
        let field = |map: &Reply, name: &'static str| {
            let Reply::Map(pairs) = map else { panic!("no map") };
            let found = pairs.iter().find(|(key, _)| *key == Reply::word(name));
            found.expect("such a field").1.clone()
        };
        let word = |reply: Reply| match reply {
            Reply::Text(word) => word.to_string(),
            other => panic!("{other:?}"),
        };
        let int = |reply: Reply| match reply {
            Reply::Integer(number) => Some(number),
            _ => None,
        };
        let Reply::Array(members) = field(&groups[0], "members") else { panic!("no array") };
        let members = members.iter().map(|member| {
            (
                int(field(member, "node")).expect("a number"),
                word(field(member, "role")),
                int(field(member, "wanted")).expect("a flag"),
                int(field(member, "entries-behind")),
            )
        });
        assert_eq!(int(field(&groups[0], "slots")), Some(i64::from(SLOTS)), "it owns them");
        (word(field(&groups[0], "state")), members.collect())
    }

    #[test]
    fn members_that_are_wanted_and_those_there_are_stand_side_by_side() {
        let row = |node, role: &str, wanted, behind| (node, role.to_owned(), wanted, behind);
        let (state, members) = shown(&view(None));
        assert_eq!(state, "waiting");
        assert_eq!(members[2..], [row(3, "voter", 0, None), row(4, "none", 1, Some(40))]);
        let (state, members) = shown(&view(Some((MemberStep::CatchingUp, &[1, 2, 3], &[4]))));
        assert_eq!(state, "catching-up");
        assert_eq!(members[0], row(1, "voter", 1, Some(0)));
        assert_eq!(members[2..], [row(3, "voter", 0, None), row(4, "learner", 1, Some(40))]);
        let (state, members) = shown(&view(Some((MemberStep::Joint, &[1, 2, 3, 4], &[]))));
        assert_eq!((state.as_str(), members.len()), ("joint", 4));
        let (state, members) = shown(&view(Some((MemberStep::Settled, &[1, 2, 4], &[]))));
        assert_eq!((state.as_str(), members.len()), ("settled", 3));
    }

    #[test]
    fn replies_of_redis_tell_of_members_there_are_and_wait_counts_the_sure_ones() {
        let steps: [(Option<Report>, &[u64], i64); 4] = [
            (None, &[1, 2, 3], 1),
            (Some((MemberStep::CatchingUp, &[1, 2, 3], &[4])), &[1, 2, 3, 4], 1),
            (Some((MemberStep::Joint, &[1, 2, 3, 4], &[])), &[1, 2, 3, 4], 1),
            (Some((MemberStep::Settled, &[1, 2, 4], &[])), &[1, 2, 4], 1),
        ];
        for (reported, nodes, sure) in steps {
            let view = view(reported);
            let (led, node) = ([G1].into(), Some(NodeId(1)));
            let topology = Topology { view: &view, led, node, status: None, port: Port::Plain };
            let seats: Vec<u64> = (1..=4).filter(|id| topology.has_seat(G1, NodeId(*id))).collect();
            assert_eq!(seats, nodes, "{reported:?}");
            assert_eq!(topology.replicas_of_every_write(), sure, "{reported:?}");
        }
    }
}
