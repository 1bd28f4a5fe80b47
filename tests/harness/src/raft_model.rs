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

/// One turn of a core, seen from outside: some calls, mostly one, and the poll after them. Of a turn of
/// many calls less is known than of one: what held in between is not seen.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it was given, in order.
    pub inputs: Vec<Input>,
    /// What it was after each of them, if they were many.
    pub between: Vec<Status>,
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
    /// It led before the last call, or within the last turn, in the same term.
    led: bool,
    /// The last turn was of more than one call.
    many: bool,
    commit: Index,
    /// Candidate: who granted its vote in this term.
    granted: BTreeSet<NodeId>,
    /// Leader: what each peer acknowledged in this term.
    acknowledged: BTreeMap<NodeId, Index>,
    /// Follower: up to where its log was compared with that of this term's leader.
    verified: Index,
    /// Who counts: the last one, and before it those of the last turn, or one. A turn may commit by the
    /// one before and append the next.
    confs: Vec<Conf>,
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
            many: false,
            commit,
            granted: BTreeSet::new(),
            acknowledged: BTreeMap::new(),
            verified: Index(0),
            confs: vec![Conf::default()],
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

    /// One turn of the core of `id`.
    ///
    /// # Panics
    /// If no rule allows it.
    pub fn step(&mut self, id: NodeId, step: Step) {
        let node = self.node(id);
        let before = node.clone();
        node.confs.drain(..node.confs.len().saturating_sub(2));
        for status in step.between.iter().chain([&step.status]) {
            if node.confs.last() != Some(&status.conf) {
                node.confs.push(status.conf.clone());
            }
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
        let led = step.between.iter().filter(|status| status.role == Role::Leader);
        let mut led: BTreeSet<Term> = led.map(|status| status.hard.term).collect();
        let same = before.role == Role::Leader && before.now.hard == node.now.hard;
        node.many = step.inputs.len() > 1;
        node.led = same || led.contains(&hard.term);
        if before.role == Role::Leader {
            led.insert(before.now.hard.term);
        }
        node.commit = step.status.commit;
        let check = Check { id, before: &before, inputs: &step.inputs, led, whole };
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
                // The last act of a leader that is removed is to tell so (M21); in a turn of many calls
                // it may have sent entries before.
                let last_act = node.led && (m.entries.is_empty() || node.many);
                let leads = node.role == Role::Leader || last_act;
                assert!(leads, "model: n{id} appends and does not lead");
                let mut sent = std::iter::once(m.prev).chain(m.entries.iter().map(|e| e.id));
                let own = sent.all(|entry| has(&node.now.log, entry));
                assert!(own, "model: n{id} sends what is not in its log");
                assert!(m.commit <= node.commit, "model: n{id} tells more than it knows");
            }
            Message::InstallSnapshot(m) if m.term == node.now.hard.term => {
                // In a turn of many calls it may have offered, and then been removed.
                let led = node.led && node.many;
                let leads = node.role == Role::Leader || led;
                assert!(leads, "model: n{id} offers and does not lead");
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
    inputs: &'a [Input],
    /// The terms that it led before and within this turn.
    led: BTreeSet<Term>,
    /// The last index of the snapshot that it installed.
    whole: Option<Index>,
}

impl Check<'_> {
    fn messages(&self) -> impl Iterator<Item = (NodeId, &Message)> {
        self.inputs.iter().filter_map(|input| match input {
            Input::Message(from, message) => Some((*from, message)),
            Input::Local => None,
        })
    }

    /// The appends of this turn, of whatever term.
    fn appends(&self) -> impl Iterator<Item = &AppendEntries> {
        self.messages().filter_map(|(_, message)| match message {
            Message::AppendEntries(m) => Some(m),
            _ => None,
        })
    }

    /// The only append that this turn took, in its own term, if it did nothing else.
    fn append(&self, node: &Node) -> Option<&AppendEntries> {
        let alone = self.inputs.len() == 1;
        self.appends().find(|m| alone && m.term == node.now.hard.term)
    }

    fn term_and_vote(&self, node: &Node) {
        let id = self.id;
        let (before, after) = (self.before.now.hard, node.now.hard);
        let asked = self.messages().filter_map(|(from, message)| match message {
            Message::RequestVote(m) if m.term == after.term => Some((from, m.last)),
            _ => None,
        });
        let asked: Vec<_> = asked.filter(|(from, _)| after.voted_for == Some(*from)).collect();
        let (longest, now) = (before.promised_ns, after.promised_ns);
        assert!(longest <= now, "model: n{id} forgets that it promised {longest} ns (R8)");
        let gave = !asked.is_empty() && vote(before) != vote(after);
        // What the log was when the vote was given is not known of a turn that changed it.
        if gave && self.before.now.log == node.now.log {
            let last = at(&self.before.now.log, self.before.now.last());
            let behind = |of: EntryId| (of.term, of.index) < (last.term, last.index);
            let behind = asked.iter().all(|(_, of)| behind(*of));
            assert!(!behind, "model: n{id} votes for a log that is behind (5.4.1)");
        }
        if before.term == after.term {
            let free = before.voted_for.is_none() && gave;
            let same = vote(before) == vote(after);
            assert!(same || free, "model: n{id} votes unasked: {before:?}, {after:?}");
            return;
        }
        let heard = |term: Term| self.messages().any(|(_, message)| message.term() == term);
        let learned = heard(after.term);
        let before_it = before.term.next() == after.term || heard(Term(after.term.0 - 1));
        let own = before_it && after.voted_for == Some(id);
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
            let changed = self.inputs.len() > 1;
            assert!(changed || !has(before, at), "model: n{id} installs {at}, which it has");
            assert!(whole > self.before.commit, "model: n{id} installs what it has committed");
            return;
        }
        let same = before.iter().zip(after).take_while(|(a, b)| a == b).count();
        let cut = same < before.len();
        if let Some(m) = self.append(node) {
            assert!(has(before, m.prev), "model: n{id} appends behind a hole");
            // Who asks whether it could take the place of a leader on a stuck disk still hears it (R15).
            let hears = matches!(node.role, Role::Follower | Role::PreCandidate);
            assert!(hears, "model: n{id} takes entries and does not follow");
            let taken = m.entries.iter().all(|entry| has(after, entry.id));
            let only = after.len() as u64 == m.prev.index.0 + m.entries.len() as u64;
            assert!(taken && only, "model: n{id} makes another log than it was sent");
            assert!(same as u64 >= self.before.commit.0, "model: n{id} cuts what is committed");
            // A cut that no entry of the message contradicts is forbidden (5.3).
            let differs = m.entries.iter().any(|e| e.id.index.0 == same as u64 + 1);
            assert!(!cut || differs, "model: n{id} shortens a log that agrees");
            return;
        }
        if self.inputs.len() > 1 {
            return self.log_of_many(node, same);
        }
        assert!(!cut, "model: n{id} cuts its log unasked");
        let own = after[same..].iter().all(|entry| entry.term == node.now.hard.term);
        assert!(own && node.role == Role::Leader, "model: n{id} appends and does not lead");
    }

    /// After a turn of many calls each new entry is a leader's, or its own, and what was cut was
    /// contradicted.
    fn log_of_many(&self, node: &Node, same: usize) {
        let (id, before, after) = (self.id, &self.before.now.log, &node.now.log);
        let sent: BTreeSet<EntryId> =
            self.appends().flat_map(|m| m.entries.iter().map(|entry| entry.id)).collect();
        let own = |entry: &EntryId| {
            let leads = node.role == Role::Leader && entry.term == node.now.hard.term;
            leads || self.led.contains(&entry.term)
        };
        let taken = after[same..].iter().all(|entry| sent.contains(entry) || own(entry));
        assert!(taken, "model: n{id} has entries that nobody sent");
        assert!(same as u64 >= self.before.commit.0, "model: n{id} cuts what is committed");
        let differs = before
            .get(same)
            .is_none_or(|cut| sent.iter().any(|entry| entry.index == cut.index && entry != cut));
        assert!(differs, "model: n{id} shortens a log that agrees");
    }

    /// What the message proves to its receiver.
    fn hear(&self, node: &mut Node) {
        for (from, message) in self.messages() {
            if message.term() == node.now.hard.term {
                self.hear_message(node, from, message);
            }
        }
    }

    fn hear_message(&self, node: &mut Node, from: NodeId, message: &Message) {
        match message {
            Message::AppendEntries(m) if has(&node.now.log, m.prev) => {
                let sent = m.entries.iter().take_while(|e| has(&node.now.log, e.id)).count();
                node.verified = node.verified.max(Index(m.prev.index.0 + sent as u64));
            }
            Message::InstallSnapshot(m) if has(&node.now.log, m.snapshot.id.at) => {
                node.verified = node.verified.max(m.snapshot.id.at.index);
            }
            Message::RequestVoteReply(m) if m.granted => {
                node.granted.insert(from);
            }
            Message::AppendEntriesReply(m) => {
                if let AppendOutcome::Accepted { matched, .. } = m.outcome {
                    let known = node.acknowledged.entry(from).or_default();
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
        // What it knew in a term that it led, and left in the same turn, is forgotten here.
        if self.inputs.len() > 1 && self.led.iter().any(|term| *term != node.now.hard.term) {
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
        let told = |(_, message): (NodeId, &Message)| match message {
            Message::AppendEntries(m) => m.commit,
            // A leader's answer to a read tells what is committed, too.
            Message::ReadIndexReply(m) => m.index.unwrap_or_default(),
            Message::InstallSnapshot(m) => m.snapshot.id.at.index,
            _ => Index(0),
        };
        let told = self.messages().map(told).max().unwrap_or_default();
        // A turn of many calls may compare logs in one term and end in a later one.
        let compared = |m: &AppendEntries| Index(m.prev.index.0 + m.entries.len() as u64);
        let offered = self.messages().filter_map(|(_, message)| match message {
            Message::InstallSnapshot(m) if has(&node.now.log, m.snapshot.id.at) => {
                Some(m.snapshot.id.at.index)
            }
            _ => None,
        });
        let earlier = match self.inputs.len() {
            1 => Index(0),
            _ => self.appends().map(compared).chain(offered).fold(self.before.verified, Index::max),
        };
        let verified = node.verified.max(earlier);
        assert!(
            commit <= told.min(verified),
            "model: n{id} commits {commit}, told {told}, verified {verified}"
        );
    }
}
