//! Whether a disk has what its node once promised to have: yesterday's copy, put back, has forgotten
//! votes and entries that others count on (scenario F10).
//!
//! A replica promises two things, each only once it is on its disk: that it voted in a term (R1, R2), and
//! that it has the leader's log up to an entry (R3). Each node remembers the highest promise that it heard from every
//! replica of its peers. A node that starts tells its peers what it found on its disk. A peer that
//! heard more from an earlier process says so, and the node stops.
//!
//! **It never accuses wrongly.** What a replica refused, or a stranger said, is no promise. A disk that keeps what was
//! synced has, at a start, at least what any earlier process promised: its term is higher, or it is the same and the log is as long. Over each link a process says first how it
//! began. Had that been lost, a peer would take promises of this process for those of an earlier one: so each remembers
//! what it had promised itself when it last said how it began. A replica that is removed and comes
//! back is another one; its promises are forgotten by those who saw it go.
//!
//! **What it cannot see**: what only processes that are gone by now have heard, and a disk that has been replaced by an empty one (a
//! directory without an identity is refused by the host).

use crate::replica::Recovered;
use raft_core::message::{AppendOutcome, Message};
use raft_core::types::{GroupId, Index, NodeId, Term};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a replica has on disk at least, the term before the index: in a higher term a log may be shorter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Promise {
    /// Its term.
    pub term: Term,
    /// The last entry that agrees with the leader of that term.
    pub index: Index,
}

impl Promise {
    /// What a message promises; most promise nothing.
    pub(crate) fn of(message: &Message) -> Option<Promise> {
        match message {
            Message::RequestVote(vote) => Some(Promise { term: vote.term, index: Index(0) }),
            Message::RequestVoteReply(reply) if reply.granted => {
                Some(Promise { term: reply.term, index: Index(0) })
            }
            Message::AppendEntriesReply(reply) => match reply.outcome {
                AppendOutcome::Accepted { matched, .. } => {
                    Some(Promise { term: reply.term, index: matched })
                }
                AppendOutcome::Rejected { .. } => None,
            },
            _ => None,
        }
    }

    /// Whether a disk that began with `found` is too old for it. A log without entries is of a replica that has just
    /// been made, or made anew.
    fn exceeds(self, found: Promise) -> bool {
        self.term > found.term
            || (self.term == found.term && found.index > Index(0) && self.index > found.index)
    }
}

/// What nodes say to each other of this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WitnessMessage {
    /// What a process found on its disk when it started.
    Began {
        /// The process.
        epoch: u64,
        /// Per group.
        found: BTreeMap<GroupId, Promise>,
    },
    /// An earlier process of the receiver promised more than this one has found.
    Promised {
        /// The process that has to answer for it: word of one before it may come late.
        epoch: u64,
        /// Per group, what.
        more: BTreeMap<GroupId, Promise>,
    },
}

/// A disk that is older than what its node has promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "group {group}: this disk is older than what it told node {witness}: it began with term {} and entry {}, but once had \
     term {} and entry {}. Was a copy put back? It has forgotten votes and writes that others count on, so this node does \
     not go on. Put the newer directory back, or take this node out of the cluster and add an empty one under a new id",
    found.term, found.index, promised.term, promised.index
)]
pub struct Older {
    /// The group.
    pub group: GroupId,
    /// What the disk had at the start.
    pub found: Promise,
    /// What it had before.
    pub promised: Promise,
    /// Who was told.
    pub witness: NodeId,
}

/// A peer, as it was heard.
#[derive(Debug, Default)]
struct Heard {
    /// The process that began last; 0: none was heard to begin.
    epoch: u64,
    /// Its promises, and those of a process before it whose beginning was not heard.
    promises: BTreeMap<GroupId, Promise>,
    /// What an earlier process promised beyond what this one found.
    more: BTreeMap<GroupId, Promise>,
}

impl Heard {
    fn accusation(&self) -> Option<WitnessMessage> {
        let more = self.more.clone();
        (!more.is_empty()).then_some(WitnessMessage::Promised { epoch: self.epoch, more })
    }
}

/// What one node knows of promises. Bounded by the replicas that it shares with its peers.
#[derive(Debug)]
pub(crate) struct Witness {
    epoch: u64,
    found: BTreeMap<GroupId, Promise>,
    heard: BTreeMap<NodeId, Heard>,
    said: BTreeMap<NodeId, BTreeMap<GroupId, Promise>>,
    /// Of `said`, what it was when the peer was last told how this process began.
    excused: BTreeMap<NodeId, BTreeMap<GroupId, Promise>>,
}

fn raise(known: &mut Promise, promise: Promise) {
    *known = promise.max(*known);
}

impl Witness {
    pub(crate) fn new(epoch: u64, recovered: &BTreeMap<GroupId, Recovered>) -> Witness {
        let found = recovered.iter().map(|(group, recovered)| {
            let raft = &recovered.raft;
            (*group, Promise { term: raft.hard.term, index: raft.last.index })
        });
        Witness {
            epoch,
            found: found.collect(),
            heard: BTreeMap::new(),
            said: BTreeMap::new(),
            excused: BTreeMap::new(),
        }
    }

    /// A replica of a peer, a member of the group, has said something that was taken.
    pub(crate) fn hears(&mut self, from: NodeId, group: GroupId, promise: Option<Promise>) {
        if let Some(promise) = promise {
            let heard = self.heard.entry(from).or_default();
            raise(heard.promises.entry(group).or_default(), promise);
        }
    }

    /// A replica here says something.
    pub(crate) fn says(&mut self, to: NodeId, group: GroupId, message: &Message) {
        if let Some(promise) = Promise::of(message) {
            raise(self.said.entry(to).or_default().entry(group).or_default(), promise);
        }
    }

    /// The group's other members are these: who is none is forgotten.
    pub(crate) fn members(&mut self, group: GroupId, others: &[NodeId]) {
        for (_, heard) in self.heard.iter_mut().filter(|(node, _)| !others.contains(node)) {
            heard.promises.remove(&group);
            heard.more.remove(&group);
        }
    }

    /// What a peer is told over a new link, before all else: how this process began, and what the peer's
    /// has to answer for. It may have said how it began before there was a link to it.
    pub(crate) fn link_up(&mut self, to: NodeId) -> impl Iterator<Item = WitnessMessage> + use<> {
        if let Some(said) = self.said.get(&to) {
            self.excused.insert(to, said.clone());
        }
        let began = WitnessMessage::Began { epoch: self.epoch, found: self.found.clone() };
        [began].into_iter().chain(self.heard.get(&to).and_then(Heard::accusation))
    }

    /// A peer says what it found; who heard more from an earlier process answers.
    pub(crate) fn peer_began(
        &mut self,
        from: NodeId,
        epoch: u64,
        found: &BTreeMap<GroupId, Promise>,
    ) -> Option<WitnessMessage> {
        let heard = self.heard.entry(from).or_default();
        if heard.epoch == epoch {
            return None;
        }
        heard.epoch = epoch;
        // Who starts the same disk again after an accusation is accused again.
        let mut before = std::mem::take(&mut heard.promises);
        for (group, promise) in std::mem::take(&mut heard.more) {
            raise(before.entry(group).or_default(), promise);
        }
        heard.more = before
            .into_iter()
            .filter(|(group, promise)| found.get(group).is_some_and(|has| promise.exceeds(*has)))
            .collect();
        heard.accusation()
    }

    /// A peer has heard more than was found here. Unless this process said it itself, the disk is old.
    pub(crate) fn promised(
        &self,
        witness: NodeId,
        epoch: u64,
        more: &BTreeMap<GroupId, Promise>,
    ) -> Option<Older> {
        if epoch != self.epoch {
            return None;
        }
        more.iter().find_map(|(group, promised)| {
            let (group, promised) = (*group, *promised);
            let found = *self.found.get(&group)?;
            let excused = self.excused.get(&witness).and_then(|said| said.get(&group));
            let older = promised.exceeds(found) && excused.is_none_or(|said| promised > *said);
            older.then_some(Older { group, found, promised, witness })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::message::AppendEntriesReply;

    const G: GroupId = GroupId(1);
    const PEER: NodeId = NodeId(2);

    fn promise(term: u64, index: u64) -> Promise {
        Promise { term: Term(term), index: Index(index) }
    }

    fn accepted(term: u64, matched: u64) -> Message {
        let (matched, received) = (Index(matched), Index(matched));
        Message::AppendEntriesReply(AppendEntriesReply {
            term: Term(term),
            stamp: 0,
            promised_ns: 0,
            commit: Index(0),
            outcome: AppendOutcome::Accepted { matched, received },
        })
    }

    fn with(found: Promise) -> Witness {
        let found = BTreeMap::from([(G, found)]);
        Witness { found, ..Witness::new(7, &BTreeMap::new()) }
    }

    /// What becomes of a process that began with `found`, if a peer has heard `heard` before.
    fn judged(heard: Promise, found: Promise) -> bool {
        let mut peer = Witness::new(1, &BTreeMap::new());
        peer.hears(PEER, G, Some(heard));
        let answer = peer.peer_began(PEER, 7, &BTreeMap::from([(G, found)]));
        let Some(WitnessMessage::Promised { epoch, more }) = answer else { return false };
        with(found).promised(NodeId(1), epoch, &more).is_some()
    }

    #[test]
    fn a_higher_term_excuses_a_shorter_log_and_the_same_does_not() {
        assert!(judged(promise(3, 10), promise(3, 9)));
        assert!(judged(promise(3, 10), promise(2, 10)));
        assert!(!judged(promise(3, 10), promise(3, 10)));
        assert!(!judged(promise(3, 10), promise(4, 2)));
        assert!(!judged(promise(3, 10), promise(3, 0)), "a replica that was made anew");
    }

    #[test]
    fn what_this_process_said_itself_accuses_it_of_nothing() {
        let mut own = with(promise(3, 5));
        own.says(NodeId(1), G, &accepted(3, 9));
        own.says(NodeId(3), G, &accepted(3, 7));
        drop(own.link_up(NodeId(1)));
        own.says(NodeId(1), G, &accepted(3, 12));
        let heard = |index| BTreeMap::from([(G, promise(3, index))]);
        assert_eq!(own.promised(NodeId(1), 7, &heard(9)), None);
        assert!(own.promised(NodeId(1), 7, &heard(10)).is_some());
        assert!(own.promised(NodeId(3), 7, &heard(9)).is_some(), "said to another");
        assert_eq!(own.promised(NodeId(1), 6, &heard(10)), None, "word of a process before");
    }

    #[test]
    fn a_beginning_is_judged_once_and_members_that_go_are_forgotten() {
        let mut peer = Witness::new(1, &BTreeMap::new());
        let found = BTreeMap::from([(G, promise(3, 5))]);
        peer.hears(PEER, G, Some(promise(3, 5)));
        assert_eq!(peer.peer_began(PEER, 7, &found), None);
        peer.hears(PEER, G, Some(promise(3, 6)));
        assert_eq!(peer.peer_began(PEER, 7, &found), None, "the same process over a new link");
        peer.members(G, &[PEER]);
        let accusation = peer.peer_began(PEER, 8, &found).expect("entry 6 is gone");
        let said: Vec<_> = peer.link_up(PEER).collect();
        assert!(said.contains(&accusation), "said again once there is a link: {said:?}");
        assert!(peer.peer_began(PEER, 9, &found).is_some(), "the same disk again");
        let mended = BTreeMap::from([(G, promise(3, 6))]);
        assert_eq!(peer.peer_began(PEER, 10, &mended), None);
        peer.hears(PEER, G, Some(promise(3, 6)));
        peer.members(G, &[NodeId(3)]);
        assert_eq!(peer.peer_began(PEER, 11, &found), None);
        peer.hears(PEER, G, Some(promise(3, 6)));
        assert!(peer.peer_began(PEER, 12, &found).is_some());
        peer.members(G, &[NodeId(3)]);
        assert_eq!(peer.link_up(PEER).count(), 1, "it is accused of nothing any more");
    }
}
