//! An abstract Raft, small enough to be believed: per node the volatile and the durable state, and
//! writes that become durable later and in order. It is told every step that a core took, and
//! rejects one that no rule allows (a trace check).
//!
//! The model knows nothing of timers, windows or hints. It says *which* steps are allowed, from the
//! messages delivered and the disk; the core decides when. It shares no code with the core.

use raft_core::Status;
use raft_core::conf::Conf;
use raft_core::effects::{Envelope, Role, Write};
use raft_core::message::{AppendEntries, AppendOutcome, Message};
use raft_core::types::{EntryId, HardState, Index, NodeId, Term};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// What a core was given.
#[derive(Clone, Debug)]
pub enum Input {
    /// A message from a peer.
    Message(NodeId, Message),
    /// Anything else: a timer, a proposal, the end of a write, an edge of a link.
    Local,
}

/// One call of a core, seen from outside.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it was given.
    pub input: Input,
    /// What it then was.
    pub status: Status,
    /// What it then wrote.
    pub write: Option<Write>,
    /// The log that led to the snapshot which that write installs.
    pub whole: Option<Whole>,
}

/// A log from its first entry on.
type Whole = Rc<[EntryId]>;

/// Term, vote and log: what a disk keeps.
#[derive(Clone, Debug, Default)]
struct Kept {
    hard: HardState,
    log: Vec<EntryId>,
}

#[derive(Clone, Debug)]
struct Node {
    now: Kept,
    durable: Kept,
    pending: VecDeque<(Write, Option<Whole>)>,
    role: Role,
    /// It led before the last call, in the same term.
    led: bool,
    commit: Index,
    /// Candidate: who granted its vote in this term.
    granted: BTreeSet<NodeId>,
    /// Leader: what each peer acknowledged in this term.
    acknowledged: BTreeMap<NodeId, Index>,
    /// Follower: up to where its log was compared with that of this term's leader.
    verified: Index,
    /// Who counts. One call may commit by the one before and append the next.
    confs: [Conf; 2],
}

impl Node {
    fn majority(&self, of: impl Fn(NodeId) -> bool) -> bool {
        self.confs.iter().any(|conf| conf.is_majority(&of))
    }
}

/// The group as the model sees it.
#[derive(Clone, Debug, Default)]
pub struct Model {
    nodes: BTreeMap<NodeId, Rc<Node>>,
}

/// Whether two logs have the same entry at `index`, and so everything before it (Raft 5.3).
fn at(log: &[EntryId], index: Index) -> EntryId {
    match index.0.checked_sub(1) {
        None => EntryId::default(),
        Some(offset) => {
            log.get(offset as usize).copied().unwrap_or(EntryId { index, term: Term(0) })
        }
    }
}

fn vote(hard: HardState) -> (Term, Option<NodeId>) {
    (hard.term, hard.voted_for)
}

fn has(log: &[EntryId], id: EntryId) -> bool {
    at(log, id.index) == id
}

impl Kept {
    fn write(&mut self, (write, whole): &(Write, Option<Whole>)) {
        self.hard = write.hard.unwrap_or(self.hard);
        if let Some(whole) = whole {
            self.log = whole.to_vec();
        }
        if let Some(from) = write.truncate_from {
            self.log.truncate(from.prev().0 as usize);
        }
        self.log.extend(write.entries.iter().map(|entry| entry.id));
    }

    fn last(&self) -> Index {
        Index(self.log.len() as u64)
    }
}

impl Model {
    /// A process begins with what its disk has; whatever it was before is forgotten (Raft 5.5).
    pub fn started(&mut self, id: NodeId, hard: HardState, log: Vec<EntryId>, commit: Index) {
        let kept = Kept { hard, log };
        let node = Node {
            durable: kept.clone(),
            now: kept,
            pending: VecDeque::new(),
            role: Role::Follower,
            led: false,
            commit,
            granted: BTreeSet::new(),
            acknowledged: BTreeMap::new(),
            verified: Index(0),
            confs: Default::default(),
        };
        self.nodes.insert(id, Rc::new(node));
    }

    /// The oldest pending write of `id` became durable.
    pub fn synced(&mut self, id: NodeId) {
        let node = self.node(id);
        let write = node.pending.pop_front().expect("model: nothing was on its way to the disk");
        node.durable.write(&write);
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        Rc::make_mut(self.nodes.get_mut(&id).expect("a node that was started"))
    }

    /// One call of the core of `id`.
    ///
    /// # Panics
    /// If no rule allows it.
    pub fn step(&mut self, id: NodeId, step: Step) {
        let node = self.node(id);
        let before = node.clone();
        if node.confs[1] != step.status.conf {
            node.confs.rotate_left(1);
            node.confs[1] = step.status.conf.clone();
        }
        let whole = step.whole.as_ref().map(|whole| Index(whole.len() as u64));
        if let Some(write) = step.write {
            let write = (write, step.whole);
            node.now.write(&write);
            node.pending.push_back(write);
        }
        let hard = step.status.hard;
        assert_eq!(node.now.hard, hard, "model: n{id} did not write its term and vote");
        if hard.term > before.now.hard.term {
            node.granted.clear();
            node.acknowledged.clear();
            node.verified = Index(0);
        }
        node.role = step.status.role;
        node.led = before.role == Role::Leader && before.now.hard == node.now.hard;
        node.commit = step.status.commit;
        let check = Check { id, before: &before, input: &step.input, whole };
        check.term_and_vote(node);
        check.log(node);
        check.hear(node);
        check.role(node);
        check.commit(node);
    }

    /// A message leaves `id`.
    ///
    /// # Panics
    /// If the node may not say that.
    pub fn leaves(&self, id: NodeId, envelope: &Envelope) {
        let node = &self.nodes[&id];
        let durable = &node.durable;
        match &envelope.message {
            Message::AppendEntries(m) if m.term == node.now.hard.term => {
                // The last act of a leader that is removed is to tell so (M21).
                let leads = node.role == Role::Leader || node.led && m.entries.is_empty();
                assert!(leads, "model: n{id} appends and does not lead");
                let mut sent = std::iter::once(m.prev).chain(m.entries.iter().map(|e| e.id));
                let own = sent.all(|entry| has(&node.now.log, entry));
                assert!(own, "model: n{id} sends what is not in its log");
                assert!(m.commit <= node.commit, "model: n{id} tells more than it knows");
            }
            Message::InstallSnapshot(m) if m.term == node.now.hard.term => {
                assert!(node.role == Role::Leader, "model: n{id} offers and does not lead");
                let at = m.snapshot.id.at;
                let own = has(&node.now.log, at) && at.index <= node.commit;
                assert!(own, "model: n{id} offers {at}, which it has not committed");
            }
            Message::AppendEntriesReply(m) if m.term == node.now.hard.term => {
                if let AppendOutcome::Accepted { matched, received } = m.outcome {
                    // What is committed is in every later leader's log, compared or not.
                    let known = node.verified.max(node.commit);
                    assert!(received <= known, "model: n{id} never compared {received}");
                    let held = has(&durable.log, at(&node.now.log, matched));
                    assert!(held, "model: n{id} acknowledges {matched}, which it could forget");
                    assert_eq!(durable.hard.term, m.term, "model: n{id} could forget its term");
                }
            }
            Message::RequestVoteReply(m) if m.granted && m.term == node.now.hard.term => {
                let voted_for = durable.hard.voted_for;
                assert_eq!(voted_for, Some(envelope.to), "model: n{id} grants, but did not vote");
            }
            Message::RequestVote(m) if m.term == node.now.hard.term => {
                let own = vote(node.now.hard);
                assert_eq!(vote(durable.hard), own, "model: n{id} asks before it has voted");
            }
            _ => {}
        }
    }
}

/// The judgement of one step.
struct Check<'a> {
    id: NodeId,
    before: &'a Node,
    input: &'a Input,
    /// The last index of the snapshot that it installed.
    whole: Option<Index>,
}

impl Check<'_> {
    /// The append that this step took in its own term.
    fn append(&self, node: &Node) -> Option<(NodeId, &AppendEntries)> {
        match self.input {
            Input::Message(from, Message::AppendEntries(m)) if m.term == node.now.hard.term => {
                Some((*from, m))
            }
            Input::Message(..) | Input::Local => None,
        }
    }

    fn term_and_vote(&self, node: &Node) {
        let id = self.id;
        let (before, after) = (self.before.now.hard, node.now.hard);
        let asker = match self.input {
            Input::Message(from, Message::RequestVote(m)) if m.term == after.term => Some(*from),
            Input::Message(..) | Input::Local => None,
        };
        let (longest, now) = (before.promised_ns, after.promised_ns);
        assert!(longest <= now, "model: n{id} forgets that it promised {longest} ns (R8)");
        let gave = asker.is_some() && after.voted_for == asker && vote(before) != vote(after);
        if let Input::Message(_, Message::RequestVote(m)) = self.input
            && gave
        {
            let last = at(&self.before.now.log, self.before.now.last());
            let behind = (m.last.term, m.last.index) < (last.term, last.index);
            assert!(!behind, "model: n{id} votes for a log that is behind (5.4.1)");
        }
        if before.term == after.term {
            let free = before.voted_for.is_none() && gave;
            let same = vote(before) == vote(after);
            assert!(same || free, "model: n{id} votes unasked: {before:?}, {after:?}");
            return;
        }
        let learned = matches!(self.input, Input::Message(_, m) if m.term() == after.term);
        let own = after.term == before.term.next() && after.voted_for == Some(id);
        let free = after.voted_for.is_none() || gave;
        assert!((learned && free) || own, "model: n{id} moves to {after:?} from {before:?}");
    }

    fn log(&self, node: &Node) {
        let id = self.id;
        let (before, after) = (&self.before.now.log, &node.now.log);
        if before.len() == after.len() && before.last() == after.last() {
            return;
        }
        if let Some(whole) = self.whole {
            let at = at(after, whole);
            assert!(!has(before, at), "model: n{id} installs {at}, which it has");
            assert!(whole > self.before.commit, "model: n{id} installs what it has committed");
            return;
        }
        let same = before.iter().zip(after).take_while(|(a, b)| a == b).count();
        let cut = same < before.len();
        if let Some((_, m)) = self.append(node) {
            assert!(has(before, m.prev), "model: n{id} appends behind a hole");
            assert!(node.role == Role::Follower, "model: n{id} takes entries and does not follow");
            let taken = m.entries.iter().all(|entry| has(after, entry.id));
            let only = after.len() as u64 == m.prev.index.0 + m.entries.len() as u64;
            assert!(taken && only, "model: n{id} makes another log than it was sent");
            assert!(same as u64 >= self.before.commit.0, "model: n{id} cuts what is committed");
            // A cut that no entry of the message contradicts is forbidden (5.3).
            let differs = m.entries.iter().any(|e| e.id.index.0 == same as u64 + 1);
            assert!(!cut || differs, "model: n{id} shortens a log that agrees");
            return;
        }
        assert!(!cut, "model: n{id} cuts its log unasked");
        let own = after[same..].iter().all(|entry| entry.term == node.now.hard.term);
        assert!(own && node.role == Role::Leader, "model: n{id} appends and does not lead");
    }

    /// What the message proves to its receiver.
    fn hear(&self, node: &mut Node) {
        if let Some((_, m)) = self.append(node)
            && has(&node.now.log, m.prev)
        {
            let sent = m.entries.iter().take_while(|entry| has(&node.now.log, entry.id)).count();
            node.verified = node.verified.max(Index(m.prev.index.0 + sent as u64));
        }
        let Input::Message(from, message) = self.input else { return };
        if message.term() != node.now.hard.term {
            return;
        }
        match message {
            Message::InstallSnapshot(m) if has(&node.now.log, m.snapshot.id.at) => {
                node.verified = node.verified.max(m.snapshot.id.at.index);
            }
            Message::RequestVoteReply(m) if m.granted => {
                node.granted.insert(*from);
            }
            Message::AppendEntriesReply(m) => {
                if let AppendOutcome::Accepted { matched, .. } = m.outcome {
                    let known = node.acknowledged.entry(*from).or_default();
                    *known = (*known).max(matched);
                }
            }
            _ => {}
        }
    }

    fn role(&self, node: &Node) {
        let (id, hard) = (self.id, node.now.hard);
        match node.role {
            Role::Leader if self.before.role == Role::Leader => {
                let before = vote(self.before.now.hard);
                assert_eq!(before, vote(hard), "model: n{id} leads another term unelected");
            }
            Role::Leader => {
                let durable = vote(node.durable.hard);
                assert_eq!(durable, vote(hard), "model: n{id} leads on a vote it could forget");
                assert_eq!(hard.voted_for, Some(id), "model: n{id} leads without its own vote");
                let votes = &node.granted;
                let won = node.majority(|voter| voter == id || votes.contains(&voter));
                assert!(won, "model: n{id} leads with the votes of {votes:?}");
            }
            Role::Candidate => {
                assert_eq!(hard.voted_for, Some(id), "model: n{id} asks without voting for itself");
            }
            Role::Follower | Role::PreCandidate => {}
        }
    }

    fn commit(&self, node: &Node) {
        let (id, commit) = (self.id, node.commit);
        assert!(commit >= self.before.commit, "model: n{id} takes a commit back");
        if commit == self.before.commit {
            return;
        }
        // A leader that is removed commits that, and steps down in the same call.
        if node.role == Role::Leader || node.led {
            let entry = at(&node.now.log, commit);
            assert_eq!(entry.term, node.now.hard.term, "model: n{id} counts an older term (5.4.2)");
            let own = has(&node.durable.log, entry);
            let acknowledged = &node.acknowledged;
            let held = |peer| acknowledged.get(&peer).is_some_and(|index| *index >= commit);
            let held = node.majority(|peer| if peer == id { own } else { held(peer) });
            assert!(held, "model: n{id} commits {entry} held by {acknowledged:?}");
            return;
        }
        // A snapshot is committed state.
        if self.whole == Some(commit) {
            return;
        }
        let told = match self.input {
            Input::Message(_, Message::AppendEntries(m)) => m.commit,
            // A leader's answer to a read tells what is committed, too.
            Input::Message(_, Message::ReadIndexReply(m)) => m.index.unwrap_or_default(),
            Input::Message(_, Message::InstallSnapshot(m)) => m.snapshot.id.at.index,
            Input::Message(..) | Input::Local => Index(0),
        };
        assert!(commit <= told.min(node.verified), "model: n{id} commits {commit} untold");
    }
}
