//! Who leads each group now, as the nodes that can be reached say.
//!
//! The view keeps the last leader of each group, to ask it first. That is no word on whether the group
//! can serve: a node that loses its leader says so in the same term, and a node that is gone says
//! nothing. So what each node said last is kept as long as its link stands. Of a group with a seat in
//! this process its own replica tells, as in Redis; for every other one a link is held to a voter that
//! names a leader, and while none does, to all its voters.

use super::book::LinkState;
use super::{Dispatch, LinkEvent, Now, Output, REFRESH_GAP_NS};
use shard_core::wire::{ClusterView, LeaderView};
use shard_core::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Links are asked for at most once in so long.
const LOOK_GAP_NS: u64 = 100_000_000;

/// What each node that can be reached said last.
#[derive(Debug, Default)]
pub(super) struct News {
    heard: BTreeMap<NodeId, BTreeMap<GroupId, LeaderView>>,
    watches: bool,
    /// When to see which links are wanted: set by whatever may have changed that.
    pub(super) look_at: Option<Now>,
    looked_at: Option<Now>,
}

impl News {
    /// A node said what it knows.
    pub(super) fn heard(&mut self, from: NodeId, view: &ClusterView) {
        self.heard.insert(from, view.leaders.clone());
        self.look_soon();
    }

    /// A link opened or broke: without one, nothing that its node said counts.
    pub(super) fn on_link(&mut self, node: NodeId, event: LinkEvent) {
        if event == LinkEvent::Down {
            self.heard.remove(&node);
        }
        self.look_soon();
    }

    fn look_soon(&mut self) {
        if self.watches {
            self.look_at = Some(self.looked_at.map_or(0, |at| at.saturating_add(LOOK_GAP_NS)));
        }
    }

    /// Whether the newest term heard of has a leader.
    pub(super) fn is_led(&self, group: GroupId) -> bool {
        let views = self.heard.values().filter_map(|leaders| leaders.get(&group));
        let newest = views.max_by_key(|view| (view.term, view.leader.is_some()));
        newest.is_some_and(|view| view.leader.is_some())
    }
}

impl Dispatch {
    /// Whether a leader is newer than the one known.
    pub(super) fn is_news(&self, group: GroupId, leader: &LeaderView) -> bool {
        self.view.leaders.get(&group).is_none_or(|known| {
            leader.term > known.term
                || (leader.term == known.term && known.leader.is_none() && leader.leader.is_some())
        })
    }

    /// A group has another leader: it is asked at once.
    pub(super) fn on_leader(&mut self, now: Now, id: GroupId, node: NodeId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.news();
        if group.target != Some(node) {
            self.retarget(now, id, Some(node));
        }
    }

    /// When a view is asked for, if one is wanted.
    pub(super) fn refresh_at(&self) -> Option<Now> {
        let at = self.refreshed_at.map_or(0, |at| at.saturating_add(REFRESH_GAP_NS));
        self.refresh_wanted.then_some(at)
    }

    /// The node in this process says all it knows unasked.
    pub(super) fn refresh_node(&self) -> Option<NodeId> {
        let mut up = self.book.links.iter().filter(|(_, link)| link.state == LinkState::Up);
        up.find(|(node, _)| Some(**node) != self.local).map(|(node, _)| *node)
    }

    /// From now on holds the links by which it is known who leads, whether there are requests or not.
    pub fn watch_leaders(&mut self) {
        self.news.watches = true;
        self.news.look_soon();
    }

    /// The shard groups of which a node that can be reached names a leader.
    pub fn led_groups(&self) -> BTreeSet<GroupId> {
        self.view.map.config.shard_groups().filter(|group| self.news.is_led(*group)).collect()
    }

    /// Whether this node's word on a group counts: its silence must be noticed though it owes nothing.
    pub fn listens_to(&self, node: NodeId) -> bool {
        self.news.watches && self.told_by_others().any(|group| self.voters(group).contains(&node))
    }

    fn voters(&self, group: GroupId) -> &[NodeId] {
        self.view.map.config.groups.get(&group).map_or(&[], |group| &group.voters)
    }

    /// The shard groups without a seat in this process.
    fn told_by_others(&self) -> impl Iterator<Item = GroupId> {
        let hosted = |group| self.local.is_some_and(|local| self.voters(group).contains(&local));
        self.view.map.config.shard_groups().filter(move |group| !hosted(*group))
    }

    /// Asks for the links that are missing. What becomes of them is told by events, which make it look
    /// again.
    pub(super) fn look(&mut self, now: Now, output: &mut Output) {
        self.news.look_at = None;
        self.news.looked_at = Some(now);
        let unled = self.told_by_others().filter(|group| !self.news.is_led(*group));
        let wanted: BTreeSet<NodeId> =
            unled.flat_map(|group| self.voters(group).iter().copied()).collect();
        for node in wanted {
            let link = self.book.links.entry(node).or_default();
            if link.state == LinkState::Down {
                link.state = LinkState::Opening;
                output.open_links.push(node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::Bounds;
    use shard_core::cluster_config::GroupConfig;

    const MS: Now = 1_000_000;

    /// Group 1 on nodes 1 to 3, group 2 on nodes 3 to 5.
    fn dispatch(local: Option<u64>) -> Dispatch {
        let mut view = crate::dispatch::model::view();
        let seats = |nodes: [u64; 3]| GroupConfig { voters: nodes.map(NodeId).into(), weight: 1 };
        view.map.config.groups.insert(GroupId(1), seats([1, 2, 3]));
        view.map.config.groups.insert(GroupId(2), seats([3, 4, 5]));
        let mut dispatch = Dispatch::new(Bounds::default(), [1, 2], view, local.map(NodeId));
        dispatch.watch_leaders();
        dispatch
    }

    fn opened(dispatch: &mut Dispatch, now: Now) -> Vec<u64> {
        let mut output = Output::default();
        dispatch.poll(now, &mut output);
        output.open_links.iter().map(|node| node.0).collect()
    }

    /// A node says who leads a group, in a term.
    fn says(dispatch: &mut Dispatch, from: u64, group: u32, leader: Option<u64>, term: u64) {
        // `Term` belongs to a crate that is not named here.
        let mut led = LeaderView { leader: leader.map(NodeId), term: Default::default() };
        led.term.0 = term;
        let leaders = [(GroupId(group), led)].into();
        let view = ClusterView { leaders, ..ClusterView::default() };
        dispatch.on_view(0, NodeId(from), &view);
    }

    fn led(dispatch: &Dispatch) -> Vec<u32> {
        dispatch.led_groups().into_iter().map(|group| group.0).collect()
    }

    #[test]
    fn a_leader_is_lost_in_the_term_that_it_was_heard_of_in() {
        let mut dispatch = dispatch(None);
        dispatch.on_link(0, NodeId(1), LinkEvent::Up);
        says(&mut dispatch, 1, 1, Some(2), 7);
        assert_eq!(led(&dispatch), [1]);
        says(&mut dispatch, 1, 1, None, 7);
        assert_eq!(led(&dispatch), []);
        // It is still the first to be asked.
        let kept = dispatch.view().leaders.get(&GroupId(1)).and_then(|known| known.leader);
        assert_eq!(kept, Some(NodeId(2)));
    }

    #[test]
    fn of_two_nodes_the_newer_term_counts_and_the_one_that_knows_a_leader() {
        let mut dispatch = dispatch(None);
        for (one, other, expected) in [
            ((Some(1), 7), (None, 7), true),
            ((None, 7), (Some(1), 7), true),
            ((Some(1), 7), (None, 8), false),
            ((None, 7), (Some(2), 8), true),
        ] {
            says(&mut dispatch, 1, 1, one.0, one.1);
            says(&mut dispatch, 2, 1, other.0, other.1);
            assert_eq!(!led(&dispatch).is_empty(), expected, "{one:?} {other:?}");
        }
    }

    #[test]
    fn what_a_node_said_counts_no_more_when_its_link_broke() {
        let mut dispatch = dispatch(None);
        dispatch.on_link(0, NodeId(1), LinkEvent::Up);
        says(&mut dispatch, 1, 1, Some(1), 7);
        dispatch.on_link(0, NodeId(1), LinkEvent::Down);
        assert_eq!(led(&dispatch), []);
    }

    #[test]
    fn a_router_holds_a_link_to_a_voter_that_names_a_leader_or_to_all() {
        let mut dispatch = dispatch(None);
        assert_eq!(opened(&mut dispatch, 0), [1, 2, 3, 4, 5]);
        for node in 1..=5 {
            dispatch.on_link(0, NodeId(node), LinkEvent::Up);
        }
        says(&mut dispatch, 1, 1, Some(2), 1);
        says(&mut dispatch, 4, 2, Some(5), 1);
        assert_eq!(led(&dispatch), [1, 2]);
        dispatch.on_link(1_000 * MS, NodeId(2), LinkEvent::Down);
        assert_eq!(opened(&mut dispatch, 1_000 * MS), []);
        dispatch.on_link(2_000 * MS, NodeId(1), LinkEvent::Down);
        assert_eq!(opened(&mut dispatch, 2_000 * MS), [1, 2]);
        // Asked for once; again when that failed, after a while.
        assert_eq!(opened(&mut dispatch, 3_000 * MS), []);
        dispatch.on_link(3_000 * MS, NodeId(1), LinkEvent::Down);
        assert_eq!(opened(&mut dispatch, 3_000 * MS), [1]);
        dispatch.on_link(3_001 * MS, NodeId(1), LinkEvent::Down);
        assert_eq!(opened(&mut dispatch, 3_001 * MS), []);
        assert_eq!(dispatch.deadline(), Some(3_100 * MS));
        assert_eq!(opened(&mut dispatch, 3_100 * MS), [1]);
    }

    #[test]
    fn of_a_group_with_a_seat_here_only_the_own_replica_is_heard() {
        let mut dispatch = dispatch(Some(1));
        assert_eq!(opened(&mut dispatch, 0), [3, 4, 5]);
        assert!(dispatch.listens_to(NodeId(3)) && !dispatch.listens_to(NodeId(2)));
        says(&mut dispatch, 1, 1, Some(1), 1);
        assert_eq!(led(&dispatch), [1]);
    }
}
