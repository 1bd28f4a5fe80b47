//! Who is in a group (Raft section 6): voters, learners, and the way from one set of voters to
//! another through a joint configuration.
//!
//! A configuration is an entry of the log and counts from when it is appended, not from when it is
//! committed; cut off, it gives way to the one before. A change of voters goes in up to three steps,
//! each an entry: those who come are learners first, with the goal written down; once they have
//! caught up the joint configuration needs a majority of both sets; once that is committed the new
//! set is left alone. The goal and the joint configuration say what is still to be done, so any
//! leader goes on from there.

use crate::quorum::{VOTERS_MAX, VoteResult, reached_by_majority, vote_result};
use crate::types::{Entry, EntryKind, Index, NodeId};
use bytes::{Buf, BufMut};
use serde::{Deserialize, Serialize};

/// The most learners of a group. Each costs the leader a stream and no quorum waits for it.
pub const LEARNERS_MAX: usize = 16;

/// A configuration. Every list is in ascending order, without repeats.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Conf {
    /// Whose votes count.
    pub voters: Vec<NodeId>,
    /// The voters before, while both majorities are needed; else empty.
    pub outgoing: Vec<NodeId>,
    /// Who gets the log, and does not count.
    pub learners: Vec<NodeId>,
    /// Who shall be the voters once they have caught up; empty if nothing is planned.
    pub goal: Vec<NodeId>,
    /// Of today's or the outgoing voters, who shall stay as learners.
    pub demoted: Vec<NodeId>,
    /// The number of the wish that it follows, as the host counts them; 0 for none. It never falls along a log,
    /// so that whoever leads can tell a wish that others have gone beyond.
    pub follows: u64,
}

/// What a group shall be; see [`crate::Raft::change_conf`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfChange {
    /// All voters.
    pub voters: Vec<NodeId>,
    /// All learners.
    pub learners: Vec<NodeId>,
    /// The number of the wish. One below that of today's configuration is refused.
    pub follows: u64,
}

impl Conf {
    /// These voters and nobody else.
    pub fn of_voters(mut voters: Vec<NodeId>) -> Conf {
        voters.sort_unstable();
        voters.dedup();
        Conf { voters, ..Conf::default() }
    }

    /// Whether both majorities are needed.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether that node counts in a majority.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// Whether that node belongs to the group.
    pub fn is_member(&self, id: NodeId) -> bool {
        self.is_voter(id) || self.learners.contains(&id)
    }

    /// Everybody, in ascending order.
    pub fn members(&self) -> Vec<NodeId> {
        merged([&self.voters, &self.outgoing, &self.learners])
    }

    /// All whose votes count, in ascending order.
    pub fn all_voters(&self) -> Vec<NodeId> {
        merged([&self.voters, &self.outgoing, &Vec::new()])
    }

    fn halves(&self) -> impl Iterator<Item = &[NodeId]> {
        let outgoing = (!self.outgoing.is_empty()).then_some(self.outgoing.as_slice());
        [self.voters.as_slice()].into_iter().chain(outgoing)
    }

    /// How a vote stands: `of` says what each voter answered. Both halves must grant.
    pub(crate) fn vote(&self, of: impl Fn(NodeId) -> Option<bool>) -> VoteResult {
        let mut result = VoteResult::Won;
        for half in self.halves() {
            let count = |answer| half.iter().filter(|id| of(**id) == Some(answer)).count();
            match vote_result(half.len(), count(true), count(false)) {
                VoteResult::Lost => return VoteResult::Lost,
                VoteResult::Pending => result = VoteResult::Pending,
                VoteResult::Won => {}
            }
        }
        result
    }

    /// Whether those of the voters are a majority of each half.
    pub fn is_majority(&self, of: impl Fn(NodeId) -> bool) -> bool {
        self.vote(|id| Some(of(id))) == VoteResult::Won && !self.voters.is_empty()
    }

    /// The highest value that a majority of each half has reached (C4).
    pub(crate) fn reached<T: Ord + Copy>(&self, of: impl Fn(NodeId) -> T) -> Option<T> {
        let reached = |half: &[NodeId]| {
            let mut values: [Option<T>; VOTERS_MAX] = [None; VOTERS_MAX];
            let values = &mut values[..half.len()];
            for (value, id) in values.iter_mut().zip(half) {
                *value = Some(of(*id));
            }
            reached_by_majority(values)
        };
        if self.voters.is_empty() {
            return None;
        }
        self.halves().map(reached).min().flatten()
    }

    /// As an entry's payload: five lists, each its length in one byte and eight bytes per node; and eight bytes
    /// of the number that it follows, if there is one.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for list in [&self.voters, &self.outgoing, &self.learners, &self.goal, &self.demoted] {
            bytes.put_u8(list.len() as u8);
            list.iter().for_each(|id| bytes.put_u64_le(id.0));
        }
        if self.follows != 0 {
            bytes.put_u64_le(self.follows);
        }
        bytes
    }

    /// Reads a payload. `None` if it is no configuration that a leader of ours could have written.
    pub fn decode(mut bytes: &[u8]) -> Option<Conf> {
        let mut list = || {
            let count = usize::from(bytes.try_get_u8().ok()?);
            let ids = (0..count).map(|_| Some(NodeId(bytes.try_get_u64_le().ok()?)));
            let ids = ids.collect::<Option<Vec<NodeId>>>()?;
            ids.is_sorted_by(|a, b| a < b).then_some(ids)
        };
        let (voters, outgoing, learners) = (list()?, list()?, list()?);
        let (goal, demoted) = (list()?, list()?);
        let follows = match bytes.is_empty() {
            true => 0,
            false => bytes.try_get_u64_le().ok().filter(|follows| *follows != 0)?,
        };
        let conf = Conf { voters, outgoing, learners, goal, demoted, follows };
        (bytes.is_empty() && conf.is_possible()).then_some(conf)
    }

    /// The configuration that an entry carries, if it carries one.
    pub fn of_entry(entry: &Entry) -> Option<Conf> {
        match entry.kind {
            EntryKind::Conf => Conf::decode(&entry.payload()),
            EntryKind::Empty | EntryKind::Command => None,
        }
    }

    fn is_possible(&self) -> bool {
        let few = |list: &Vec<NodeId>| list.len() <= VOTERS_MAX;
        let bounds = few(&self.voters) && few(&self.outgoing) && few(&self.goal);
        let apart = self.learners.iter().all(|id| !self.is_voter(*id));
        let stay = self.demoted.iter().all(|id| self.is_voter(*id));
        let nobody = |list: &Vec<NodeId>| list.contains(&NodeId(0));
        bounds
            && apart
            && stay
            && !self.voters.is_empty()
            && self.learners.len() <= LEARNERS_MAX
            && (self.goal.is_empty() || !self.is_joint())
            && ![&self.voters, &self.outgoing, &self.learners].into_iter().any(nobody)
    }

    /// The next configuration on the way to `change`, or why there is none.
    pub(crate) fn towards(&self, change: &ConfChange) -> Result<Conf, &'static str> {
        let voters = merged([&change.voters, &Vec::new(), &Vec::new()]);
        let learners = merged([&change.learners, &Vec::new(), &Vec::new()]);
        if change.follows < self.follows {
            return Err("a newer wish is followed already");
        }
        if voters.is_empty() {
            return Err("a group needs a voter");
        }
        if voters.len() > VOTERS_MAX || learners.len() > LEARNERS_MAX {
            return Err("too many members");
        }
        if voters.iter().any(|id| learners.contains(id)) {
            return Err("a node cannot be voter and learner");
        }
        if voters.contains(&NodeId(0)) || learners.contains(&NodeId(0)) {
            return Err("a node's id is never 0");
        }
        let is_voter = |id: &NodeId| self.voters.contains(id);
        let to_catch_up = voters.iter().filter(|id| !is_voter(id)).copied();
        let stay = learners.iter().filter(|id| !is_voter(id)).copied();
        let mut next = Conf {
            voters: self.voters.clone(),
            learners: to_catch_up.chain(stay).collect(),
            demoted: learners.iter().copied().filter(is_voter).collect(),
            follows: change.follows,
            ..Conf::default()
        };
        next.learners.sort_unstable();
        if voters != self.voters {
            next.goal = voters;
        }
        if next == *self {
            return Err("nothing would change");
        }
        if next.learners.len() > LEARNERS_MAX {
            return Err("too many members");
        }
        Ok(next)
    }

    /// The joint configuration that leads to the goal.
    pub(crate) fn joint(&self) -> Conf {
        let learners = self.learners.iter().copied().filter(|id| !self.goal.contains(id));
        Conf {
            voters: self.goal.clone(),
            outgoing: self.voters.clone(),
            learners: learners.collect(),
            goal: Vec::new(),
            demoted: self.demoted.clone(),
            follows: self.follows,
        }
    }

    /// What the joint configuration leaves behind.
    pub(crate) fn left(&self) -> Conf {
        let demoted = self.demoted.iter().copied().filter(|id| !self.voters.contains(id)).collect();
        Conf {
            voters: self.voters.clone(),
            learners: merged([&self.learners, &demoted, &Vec::new()]),
            follows: self.follows,
            ..Conf::default()
        }
    }
}

fn merged(lists: [&Vec<NodeId>; 3]) -> Vec<NodeId> {
    let mut ids: Vec<NodeId> = lists.into_iter().flatten().copied().collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The newest configuration that is surely committed, and those after it in the log.
#[derive(Clone, Debug)]
pub(crate) struct Confs {
    committed: (Index, Conf),
    /// In the order of the log; at most the bound of what one leader leaves uncommitted, plus what
    /// a follower was sent ahead of the commit index.
    later: Vec<(Index, Conf)>,
    /// Where the first one stands that is committed and names somebody; `None` for a replica that joins
    /// until it has that.
    known_from: Option<Index>,
}

impl Confs {
    pub(crate) fn new(committed: (Index, Conf), later: Vec<(Index, Conf)>) -> Confs {
        let known_from = (!committed.1.voters.is_empty()).then_some(committed.0);
        Confs { committed, later, known_from }
    }

    /// Whether the log up to `index`, with what came before it, says who is in the group.
    pub(crate) fn known_at(&self, index: Index) -> bool {
        self.known_from.is_some_and(|from| from <= index)
    }

    /// The one that counts.
    pub(crate) fn newest(&self) -> &Conf {
        &self.later.last().unwrap_or(&self.committed).1
    }

    /// Where it stands in the log.
    pub(crate) fn newest_index(&self) -> Index {
        self.later.last().unwrap_or(&self.committed).0
    }

    /// The last one that can never be cut off again.
    pub(crate) fn committed(&self) -> (Index, &Conf) {
        (self.committed.0, &self.committed.1)
    }

    /// How many are kept.
    pub(crate) fn count(&self) -> usize {
        1 + self.later.len()
    }

    /// Whether any of them names the node: a replica that none names has no say (R21).
    pub(crate) fn name(&self, id: NodeId) -> bool {
        let later = self.later.iter().map(|(_, conf)| conf);
        later.chain([&self.committed.1]).any(|conf| conf.is_member(id) || conf.goal.contains(&id))
    }

    pub(crate) fn append(&mut self, index: Index, conf: Conf) {
        self.later.push((index, conf));
    }

    /// Drops those at or above `from`. Whether there was one.
    pub(crate) fn truncate(&mut self, from: Index) -> bool {
        let before = self.later.len();
        self.later.retain(|(index, _)| *index < from);
        self.later.len() < before
    }

    /// Notes that everything up to `commit` is. Whether a configuration was among it.
    pub(crate) fn commit(&mut self, commit: Index) -> bool {
        let count = self.later.partition_point(|(index, _)| *index <= commit);
        if count > 0 {
            self.known_from = self.known_from.or(Some(self.later[0].0));
        }
        let newest = self.later.drain(..count).next_back();
        let any = newest.is_some();
        self.committed = newest.unwrap_or_else(|| std::mem::take(&mut self.committed));
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn joint(incoming: u64, outgoing: u64) -> Conf {
        Conf {
            voters: (1..=incoming).map(NodeId).collect(),
            outgoing: (101..101 + outgoing).map(NodeId).collect(),
            ..Conf::default()
        }
    }

    /// C4: every size of both halves, against the definition.
    #[test]
    fn the_joint_index_is_the_lower_of_the_two_majorities() {
        for (incoming, outgoing) in (1..=7).flat_map(|i| (0..=7).map(move |o| (i, o))) {
            let conf = joint(incoming, outgoing);
            for turn in 0..40u64 {
                let of = |id: NodeId| (id.0 * 7 + turn * (id.0 % 5) * 3) % 11;
                let holds = |half: &[NodeId], x: u64| {
                    half.is_empty()
                        || 2 * half.iter().filter(|id| of(**id) >= x).count() > half.len()
                };
                let by_definition =
                    (0..11).rev().find(|x| holds(&conf.voters, *x) && holds(&conf.outgoing, *x));
                assert_eq!(conf.reached(of), by_definition, "{incoming} {outgoing} {turn}");
            }
        }
        assert_eq!(Conf::default().reached(|_| 5), None, "without voters nothing is reached");
    }

    #[test]
    fn a_joint_vote_needs_both_and_is_lost_by_one() {
        let conf = joint(3, 3);
        let vote = |granted: &[u64], refused: &[u64]| {
            conf.vote(|id| match (granted.contains(&id.0), refused.contains(&id.0)) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => None,
            })
        };
        assert_eq!(vote(&[1, 2, 3], &[]), VoteResult::Pending);
        assert_eq!(vote(&[1, 2, 101], &[]), VoteResult::Pending);
        assert_eq!(vote(&[1, 2, 101, 102], &[]), VoteResult::Won);
        assert_eq!(vote(&[1, 2, 3, 101], &[102, 103]), VoteResult::Lost);
    }

    #[test]
    fn a_change_goes_by_learners_goal_joint_and_left() {
        let start = Conf::of_voters(ids(&[1, 2, 3]));
        let change = ConfChange { voters: ids(&[4, 2, 1]), learners: ids(&[3, 9]), follows: 7 };
        let planned = start.towards(&change).expect("a change");
        assert_eq!(planned.learners, ids(&[4, 9]));
        assert_eq!((&planned.goal, &planned.demoted), (&ids(&[1, 2, 4]), &ids(&[3])));
        let joint = planned.joint();
        assert_eq!((&joint.voters, &joint.outgoing), (&ids(&[1, 2, 4]), &ids(&[1, 2, 3])));
        assert_eq!(joint.learners, ids(&[9]));
        let left = joint.left();
        assert_eq!((&left.voters, &left.learners), (&ids(&[1, 2, 4]), &ids(&[3, 9])));
        assert!(!left.is_joint() && left.goal.is_empty());
        assert_eq!([&planned, &joint, &left].map(|conf| conf.follows), [7; 3]);
        for conf in [start, planned, joint, left] {
            assert_eq!(Conf::decode(&conf.encode()), Some(conf));
        }
    }

    /// M11, M12.
    #[test]
    fn what_is_no_change_is_refused_in_words() {
        let conf = Conf::of_voters(ids(&[1, 2, 3]));
        let table = [
            (vec![], vec![], "a group needs a voter"),
            (vec![1, 2, 3], vec![], "nothing would change"),
            (vec![1, 2], vec![2], "a node cannot be voter and learner"),
            (vec![0, 1], vec![], "a node's id is never 0"),
            (vec![1, 2, 3, 4, 5, 6, 7, 8], vec![], "too many members"),
        ];
        for (voters, learners, why) in table {
            let change = ConfChange { voters: ids(&voters), learners: ids(&learners), follows: 0 };
            assert_eq!(conf.towards(&change), Err(why), "{change:?}");
        }
    }

    /// A wish that only says who the members are, who they are already, counts nevertheless: from then on
    /// nobody acts on an older one.
    #[test]
    fn an_older_wish_is_refused_and_a_newer_one_counts_though_it_changes_nobody() {
        let conf = Conf { follows: 4, ..Conf::of_voters(ids(&[1, 2, 3])) };
        let wish = |voters: &[u64], follows| ConfChange {
            voters: ids(voters),
            learners: Vec::new(),
            follows,
        };
        let older = "a newer wish is followed already";
        assert_eq!(conf.towards(&wish(&[1, 2, 4], 3)), Err(older));
        assert_eq!(conf.towards(&wish(&[1, 2, 3], 4)), Err("nothing would change"));
        let next = conf.towards(&wish(&[1, 2, 3], 5)).expect("a newer one");
        assert_eq!(next, Conf { follows: 5, ..conf.clone() });
        // A plan is taken back by it.
        let planned = conf.towards(&wish(&[1, 2, 4], 5)).expect("a plan");
        assert_eq!(planned.towards(&wish(&[1, 2, 4], 4)), Err(older));
        let back = planned.towards(&wish(&[1, 2, 3], 6)).expect("a newer one");
        assert_eq!(back, Conf { follows: 6, ..conf });
    }

    #[test]
    fn bytes_that_are_no_configuration_are_refused() {
        let good = joint(3, 3).encode();
        for cut in 0..good.len() {
            assert_eq!(Conf::decode(&good[..cut]), None);
        }
        let twice = Conf { voters: ids(&[1, 1]), ..Conf::default() };
        let nobody = Conf { learners: ids(&[1]), ..Conf::default() };
        let both = Conf { voters: ids(&[1]), learners: ids(&[1]), ..Conf::default() };
        let many = joint(8, 0);
        for conf in [twice, nobody, both, many] {
            assert_eq!(Conf::decode(&conf.encode()), None, "{conf:?}");
        }
        assert_eq!(Conf::decode(&[&good[..], &[0]].concat()), None, "trailing bytes");
        assert_eq!(Conf::decode(&[&good[..], &[0; 8]].concat()), None, "no number is no bytes");
        let numbered = Conf { follows: 9, ..Conf::of_voters(ids(&[1])) }.encode();
        assert_eq!(Conf::decode(&numbered[..numbered.len() - 1]), None);
        assert_eq!(Conf::decode(&[numbered, vec![0]].concat()), None, "trailing bytes");
    }
}
