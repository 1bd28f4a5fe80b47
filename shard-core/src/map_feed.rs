//! How the shardmaster's map gets to nodes that have no seat in its group.
//!
//! A node without a seat asks one with a seat, and another if that is silent; who was asked tells every change
//! from then on. Who leads the group tells those with a seat as well: they would hear of what is committed
//! with the next entry only. What is lost is noticed at the next question. Nothing on the way of a request waits for
//! any of it: a node serves by the map that it has.
//!
//! A node that has just been made known has no map, and no link to anybody whom it could ask. So who leads the group
//! gives the whole map to each node that it has a link to and that does not ask.

use crate::cluster_config::SHARDMASTER;
use crate::cluster_map::{ClusterMap, GroupMembers, MapChange};
use raft_core::types::{GroupId, NodeId, Now};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

const MS: Now = 1_000_000;
/// How often a node without a seat asks for news.
const ASK_NS: Now = 1_000 * MS;
/// Who has not asked for so long is told nothing any more.
const FORGET_NS: Now = 5_000 * MS;
/// A node that has a new link, and has not asked for so long, is told without asking; and again.
const SILENT_NS: Now = 1_500 * MS;
/// Nodes that are told changes, at most; more have to ask each time.
const SUBSCRIBERS_MAX: usize = 1024;

/// What nodes say to each other of the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MapMessage {
    /// The newest version that the sender has.
    Have(u64),
    /// All of it.
    Whole(Box<ClusterMap>),
    /// What is new.
    Change(Box<MapChange>),
    /// Who leads a group says who is in it, for the shardmaster.
    Members(GroupId, Box<GroupMembers>),
}

/// A node that wants news.
#[derive(Debug)]
struct Subscriber {
    /// What it has, once what was sent arrives.
    version: u64,
    heard: Now,
}

/// The newest map, and who is to have it.
#[derive(Debug)]
pub(crate) struct MapFeed {
    own: NodeId,
    map: Arc<ClusterMap>,
    /// The map that subscribers were told last.
    told: Arc<ClusterMap>,
    subscribers: BTreeMap<NodeId, Subscriber>,
    /// This node's replica of group 0 has applied a configuration: it is who is asked.
    has_seat: bool,
    ask_at: Now,
    /// Who was asked last.
    asked: NodeId,
    refused: u64,
    /// Nodes with a link that has stood since without a word of theirs, and when they are told.
    silent: BTreeMap<NodeId, Now>,
    /// At the last poll.
    leads: bool,
}

impl MapFeed {
    pub(crate) fn new(own: NodeId, map: Arc<ClusterMap>) -> MapFeed {
        MapFeed {
            own,
            told: Arc::clone(&map),
            map,
            subscribers: BTreeMap::new(),
            has_seat: false,
            ask_at: 0,
            asked: NodeId(0),
            refused: 0,
            silent: BTreeMap::new(),
            leads: false,
        }
    }

    pub(crate) fn map(&self) -> &Arc<ClusterMap> {
        &self.map
    }

    /// Messages that made no sense.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// The replica here has applied this. Says whether it is news.
    pub(crate) fn applied(&mut self, map: &ClusterMap) -> bool {
        self.has_seat = true;
        let news = map.version > self.map.version;
        if news {
            self.map = Arc::new(map.clone());
        }
        news
    }

    /// The replica here is no more.
    pub(crate) fn lost_seat(&mut self) {
        self.has_seat = false;
    }

    /// Takes what another node says. Says whether the map is news.
    pub(crate) fn heard(
        &mut self,
        now: Now,
        from: NodeId,
        message: MapMessage,
        out: &mut Vec<(NodeId, MapMessage)>,
    ) -> bool {
        match message {
            MapMessage::Have(version) => {
                self.silent.remove(&from);
                self.subscribe(now, from, version, out);
                false
            }
            MapMessage::Whole(map) if map.version <= self.map.version => {
                out.push((from, MapMessage::Have(self.map.version)));
                false
            }
            MapMessage::Whole(map) => {
                let sound =
                    map.check().is_ok() && map.config.cluster_id == self.map.config.cluster_id;
                self.refused += u64::from(!sound);
                if sound {
                    out.push((from, MapMessage::Have(map.version)));
                    self.map = Arc::from(map);
                }
                sound
            }
            // That is not for the map here, but for whoever leads group 0.
            MapMessage::Members(..) => false,
            MapMessage::Change(change) if change.to <= self.map.version => false,
            MapMessage::Change(change) => {
                let mut next = ClusterMap::clone(&self.map);
                let fits = next.apply(&change).is_ok();
                match fits {
                    true => self.map = Arc::new(next),
                    // Something was lost on the way: all of it is asked for.
                    false => self.ask_at = 0,
                }
                fits
            }
        }
    }

    fn subscribe(
        &mut self,
        now: Now,
        from: NodeId,
        version: u64,
        out: &mut Vec<(NodeId, MapMessage)>,
    ) {
        if !self.has_seat {
            return;
        }
        if version < self.told.version {
            out.push((from, MapMessage::Whole(Box::new(ClusterMap::clone(&self.told)))));
        }
        self.subscribers.retain(|_, known| known.heard.saturating_add(FORGET_NS) > now);
        if self.subscribers.len() < SUBSCRIBERS_MAX || self.subscribers.contains_key(&from) {
            let version = version.max(self.told.version);
            self.subscribers.insert(from, Subscriber { version, heard: now });
        }
    }

    /// Tells what is new, and asks for it, as is due.
    pub(crate) fn poll(&mut self, now: Now, leads: bool, out: &mut Vec<(NodeId, MapMessage)>) {
        if self.told.version < self.map.version && self.has_seat {
            let change = Box::new(self.map.diff(&self.told));
            if leads {
                let seats = self.map.config.groups.get(&SHARDMASTER);
                let voters = seats.into_iter().flat_map(|seats| seats.voters.iter().copied());
                let others = voters.filter(|node| *node != self.own);
                out.extend(others.map(|node| (node, MapMessage::Change(change.clone()))));
            }
            for (node, known) in &mut self.subscribers {
                if known.version == change.from {
                    known.version = change.to;
                    out.push((*node, MapMessage::Change(change.clone())));
                }
            }
            self.told = Arc::clone(&self.map);
        }
        self.leads = leads && self.has_seat;
        if self.leads {
            self.tell_silent(now, out);
        }
        if !self.has_seat && now >= self.ask_at {
            self.ask_at = now.saturating_add(ASK_NS);
            if let Some(node) = self.next_source() {
                self.asked = node;
                out.push((node, MapMessage::Have(self.map.version)));
            }
        }
    }

    /// There is a new link to a node.
    pub(crate) fn link_up(&mut self, now: Now, node: NodeId) {
        self.silent.insert(node, now.saturating_add(SILENT_NS));
    }

    /// The link is gone.
    pub(crate) fn link_down(&mut self, node: NodeId) {
        self.silent.remove(&node);
    }

    fn tell_silent(&mut self, now: Now, out: &mut Vec<(NodeId, MapMessage)>) {
        for (node, at) in self.silent.iter_mut().filter(|(_, at)| **at <= now) {
            *at = now.saturating_add(SILENT_NS);
            if self.map.config.nodes.contains_key(node) {
                let whole = ClusterMap::clone(&self.told);
                out.push((*node, MapMessage::Whole(Box::new(whole))));
            }
        }
    }

    /// The voter of group 0 after the one that was asked last.
    fn next_source(&self) -> Option<NodeId> {
        let voters = &self.map.config.groups.get(&SHARDMASTER)?.voters;
        let others = || voters.iter().copied().filter(|node| *node != self.own);
        others().find(|node| *node > self.asked).or_else(|| others().next())
    }

    pub(crate) fn deadline(&self) -> Option<Now> {
        match self.has_seat {
            false => Some(self.ask_at),
            true => self.silent.values().min().copied().filter(|_| self.leads),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster_config::{ClusterConfig, ConfigNum, GroupConfig, NodeConfig};

    fn map(version: u64) -> ClusterMap {
        let node = |id: u64| {
            (NodeId(id), NodeConfig { peer: format!("h:{id}"), resp: format!("h:9{id}") })
        };
        let seats = GroupConfig { voters: vec![NodeId(1), NodeId(2)], weight: 0 };
        let config = ClusterConfig {
            num: ConfigNum(1),
            cluster_id: "c".into(),
            nodes: (1..=3).map(node).collect(),
            groups: [(SHARDMASTER, seats)].into(),
            slots: Vec::new(),
        };
        ClusterMap { version, config, ..ClusterMap::default() }
    }

    fn said(feed: &mut MapFeed, now: Now) -> Vec<(NodeId, MapMessage)> {
        let mut out = Vec::new();
        feed.poll(now, false, &mut out);
        out
    }

    #[test]
    fn a_node_without_a_seat_asks_each_in_turn_and_is_told_what_changes() {
        let mut seat = MapFeed::new(NodeId(1), Arc::new(map(1)));
        assert!(!seat.applied(&map(1)) && seat.applied(&map(2)));
        assert_eq!(said(&mut seat, 0), []);
        let mut other = MapFeed::new(NodeId(3), Arc::new(map(1)));
        assert_eq!(said(&mut other, 0), [(NodeId(1), MapMessage::Have(1))]);
        assert_eq!(said(&mut other, ASK_NS - 1), []);
        assert_eq!(other.deadline(), Some(ASK_NS));
        assert_eq!(said(&mut other, ASK_NS), [(NodeId(2), MapMessage::Have(1))]);
        assert_eq!(said(&mut other, 2 * ASK_NS), [(NodeId(1), MapMessage::Have(1))]);

        let mut out = Vec::new();
        assert!(!seat.heard(0, NodeId(3), MapMessage::Have(1), &mut out));
        let (to, whole) = out.pop().expect("it lacks something");
        assert_eq!(to, NodeId(3));
        assert!(other.heard(0, NodeId(1), whole.clone(), &mut out));
        assert!(!other.heard(0, NodeId(1), whole, &mut out), "nothing new");
        assert_eq!(other.map().version, 2);

        // From here on it hears of each change alone, and asks for all if it has missed one.
        let changes: Vec<MapMessage> = (3..=4)
            .map(|version| {
                assert!(seat.applied(&ClusterMap { paused: version == 3, ..map(version) }));
                let [(NodeId(3), change @ MapMessage::Change(_))] = &said(&mut seat, 1)[..] else {
                    panic!("one change for node 3");
                };
                change.clone()
            })
            .collect();
        assert!(!other.heard(1, NodeId(1), changes[1].clone(), &mut out), "it does not fit");
        assert_eq!(said(&mut other, 2 * ASK_NS), [(NodeId(2), MapMessage::Have(2))]);
        assert!(other.heard(1, NodeId(1), changes[0].clone(), &mut out) && other.map().paused);
        assert!(other.heard(1, NodeId(1), changes[1].clone(), &mut out) && !other.map().paused);
    }

    #[test]
    fn a_map_that_makes_no_sense_or_is_of_another_cluster_is_refused() {
        let mut feed = MapFeed::new(NodeId(3), Arc::new(map(1)));
        let mut wrong = map(2);
        wrong.config.cluster_id = "d".into();
        let mut out = Vec::new();
        assert!(!feed.heard(0, NodeId(1), MapMessage::Whole(Box::new(wrong)), &mut out));
        let mut wrong = map(2);
        wrong.config.groups.clear();
        assert!(!feed.heard(0, NodeId(1), MapMessage::Whole(Box::new(wrong)), &mut out));
        assert_eq!((feed.refused(), feed.map().version), (2, 1));
    }

    #[test]
    fn a_node_that_cannot_ask_is_told_until_it_answers() {
        let mut seat = MapFeed::new(NodeId(1), Arc::new(map(1)));
        seat.applied(&map(2));
        let mut out = Vec::new();
        seat.poll(0, true, &mut out);
        out.clear();
        [3, 9].into_iter().for_each(|node| seat.link_up(0, NodeId(node)));
        seat.poll(SILENT_NS - 1, true, &mut out);
        assert_eq!((out.len(), seat.deadline()), (0, Some(SILENT_NS)));
        for round in 1..=2 {
            seat.poll(round * SILENT_NS, true, &mut out);
        }
        let whole = (NodeId(3), MapMessage::Whole(Box::new(map(2))));
        assert_eq!(out, [whole.clone(), whole.clone()], "9 is no node of the cluster");

        let mut spare = MapFeed::new(NodeId(3), Arc::new(ClusterMap::default()));
        spare.map = Arc::new(ClusterMap {
            config: ClusterConfig { cluster_id: "c".into(), ..ClusterConfig::default() },
            ..ClusterMap::default()
        });
        let mut answer = Vec::new();
        assert_eq!(said(&mut spare, 0), [], "it knows nobody");
        assert!(spare.heard(0, NodeId(1), whole.1, &mut answer));
        let (to, have) = answer.pop().expect("an answer");
        assert_eq!((to, &have), (NodeId(1), &MapMessage::Have(2)));
        out.clear();
        seat.heard(2 * SILENT_NS, NodeId(3), have, &mut out);
        seat.poll(9 * SILENT_NS, true, &mut out);
        assert_eq!(out, []);
        // Who does not lead tells nobody, and is not woken for it.
        seat.link_up(0, NodeId(3));
        seat.poll(9 * SILENT_NS, false, &mut out);
        assert_eq!((out.len(), seat.deadline()), (0, None));
    }

    #[test]
    fn who_has_not_asked_for_long_is_told_nothing() {
        let mut seat = MapFeed::new(NodeId(1), Arc::new(map(1)));
        seat.applied(&map(2));
        said(&mut seat, 0);
        let mut out = Vec::new();
        seat.heard(0, NodeId(3), MapMessage::Have(2), &mut out);
        assert_eq!(out, [], "it has everything");
        seat.heard(FORGET_NS, NodeId(4), MapMessage::Have(2), &mut out);
        seat.applied(&map(3));
        let told: Vec<NodeId> = said(&mut seat, FORGET_NS).into_iter().map(|(to, _)| to).collect();
        assert_eq!(told, [NodeId(4)]);
    }
}
