//! A group of real cores on simulated disks: what every host does around `Raft`, one call at a
//! time, so that scripts and the simulator decide when. Each call is checked.

use crate::raft_checker::{Checker, memory_within};
use crate::raft_disk::{CHUNK_BYTES, Chunk, Disk, Image, overwrite};
use crate::raft_model::{Input, Model, Step};
use crate::raft_record::Recorded;
use bytes::Bytes;
use raft_core::conf::Conf;
use raft_core::effects::{
    ConfView, Effects, Envelope, Fetch, FetchResult, NodeLiveness, Pull, ReadMode, Refused, Role,
    Write,
};
use raft_core::message::Message;
use raft_core::snapshot::{SnapCmd, SnapEvent, Snapshot, SnapshotId};
use raft_core::types::{Entry, EntryId, Index, NodeId, Now, ReadId, Term, WriteToken};
use raft_core::{Config, Status, invariants};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::rc::Rc;

/// Something that happened, in the order it did; scripts print it, the simulator hashes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A role, term or leader changed.
    Role {
        /// Role and term until now.
        before: (Role, Term),
        /// Role and term from now on.
        after: (Role, Term),
        /// Who leads, as far as known.
        leader: Option<NodeId>,
    },
    /// A message left.
    Sent(Envelope),
    /// A write was handed to the disk.
    Write(Write),
    /// Everything up to the token is on disk.
    Synced(WriteToken),
    /// An entry reached the state machine.
    Applied(Entry),
    /// Old entries were asked for.
    Fetch(Fetch),
    /// A read has its index.
    Read(ReadId, Index),
    /// A read gets none.
    ReadFailed(ReadId),
    /// Another configuration counts, or it became committed.
    Conf(ConfView),
    /// A peer said that the node is no member since then.
    Removed(Index),
    /// The log up to there is not needed any more.
    Compact(EntryId),
    /// A piece of a snapshot left.
    Chunk(Chunk),
    /// Another word about snapshots.
    Snap(SnapCmd),
    /// The state machine holds a snapshot.
    Installed(SnapshotId),
}

/// One node: a core while it runs, and its disk.
#[derive(Clone)]
pub struct Host {
    /// `None` while it is down.
    pub raft: Option<Recorded>,
    /// Its disk.
    pub disk: Disk,
    /// Its own clock.
    pub now: Now,
    /// How often it was started.
    pub epoch: u64,
    /// Peers whose link may pull.
    pub appendable: BTreeSet<NodeId>,
    /// Fetches not answered.
    pub fetches: VecDeque<(Fetch, Option<FetchResult>)>,
    /// Applied and not reported: last index and bytes.
    pub unreported: Option<(Index, u64)>,
    config: Config,
    log: Vec<Entry>,
    held: VecDeque<(WriteToken, Envelope)>,
    state: u64,
    /// The last entry that is in `state`, and the configuration then.
    state_at: (EntryId, (Index, Conf)),
    /// Snapshots that are sent, by receiver.
    readers: BTreeMap<NodeId, Image>,
    /// The turn that began and is not polled.
    turn: Option<Turn>,
    /// Durable, and not yet the state machine's.
    pub installing: Option<Image>,
    role: (Role, Term),
}

/// Some calls before one poll. What it promises is said only then.
#[derive(Clone, Default)]
struct Turn {
    inputs: Vec<Input>,
    /// What the core was after each call.
    statuses: Vec<Status>,
    pulled: Vec<Envelope>,
}

/// A group. A copy shares what it does not change, so that a search can keep many.
#[derive(Clone)]
pub struct World {
    hosts: BTreeMap<NodeId, Rc<Host>>,
    checker: Rc<Checker>,
    model: Rc<Model>,
    /// What happened since it was last taken.
    pub events: Vec<(NodeId, Event)>,
    links: u64,
    recorded: Option<NodeId>,
    tapes: Vec<String>,
    /// Reads that wait, each with what was committed anywhere when it came.
    reads: BTreeMap<(NodeId, ReadId), Index>,
    /// Snapshots have up to so many bytes.
    pub snapshot_bytes_max: u64,
}

impl Host {
    /// Hashes all that decides what the node may do next, but for its clock.
    pub fn hash_into(&self, hasher: &mut impl Hasher) {
        self.raft.as_ref().map(|raft| raft.digest()).hash(hasher);
        self.disk.hash_into(hasher);
        (self.state, self.held.len()).hash(hasher);
        let oldest = self.disk.unsynced.front().map_or(0, |(write, _)| write.token.0);
        for (token, envelope) in &self.held {
            (token.0.wrapping_sub(oldest), hash_of_message(&envelope.message), envelope.to)
                .hash(hasher);
        }
    }
}

/// A hash of everything in a message.
pub fn hash_of_message(message: &Message) -> u64 {
    struct Sink(std::hash::DefaultHasher);
    impl std::fmt::Write for Sink {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.write(text.as_bytes());
            Ok(())
        }
    }
    let mut sink = Sink(std::hash::DefaultHasher::new());
    std::fmt::Write::write_fmt(&mut sink, format_args!("{message:?}")).expect("a hash has room");
    sink.0.finish()
}

impl World {
    /// Nodes that are down, on the disks given.
    pub fn new(configs: Vec<Config>) -> World {
        #[cfg(feature = "mutants")]
        let configs = crate::raft_mutant::applied(configs);
        let host = |config: Config| {
            let host = Host {
                raft: None,
                disk: Disk::default(),
                now: 0,
                epoch: 0,
                appendable: BTreeSet::new(),
                fetches: VecDeque::new(),
                unreported: None,
                log: Vec::new(),
                held: VecDeque::new(),
                state: 0,
                state_at: Default::default(),
                readers: BTreeMap::new(),
                turn: None,
                installing: None,
                role: (Role::Follower, Term(0)),
                config,
            };
            (host.config.id, Rc::new(host))
        };
        World {
            hosts: configs.into_iter().map(host).collect(),
            checker: Rc::default(),
            model: Rc::default(),
            events: Vec::new(),
            links: 0,
            recorded: None,
            tapes: Vec::new(),
            reads: BTreeMap::new(),
            snapshot_bytes_max: 5 * CHUNK_BYTES,
        }
    }

    /// Every node's id.
    pub fn ids(&self) -> Vec<NodeId> {
        self.hosts.keys().copied().collect()
    }

    /// A node.
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn host(&self, id: NodeId) -> &Host {
        &self.hosts[&id]
    }

    /// A node, to change its clock or its queues.
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn host_mut(&mut self, id: NodeId) -> &mut Host {
        Rc::make_mut(self.hosts.get_mut(&id).expect("a node of this world"))
    }

    /// Hashes the whole group: two worlds with equal hashes go on alike.
    pub fn hash_into(&self, hasher: &mut impl Hasher) {
        self.hosts.values().for_each(|host| host.hash_into(hasher));
        (&self.checker, &self.reads).hash(hasher);
    }

    fn checker(&mut self) -> &mut Checker {
        Rc::make_mut(&mut self.checker)
    }

    fn model(&mut self) -> &mut Model {
        Rc::make_mut(&mut self.model)
    }

    /// Its log as its core has it, once polled.
    pub fn log(&self, id: NodeId) -> &[Entry] {
        &self.hosts[&id].log
    }

    /// A hash of all that the node's state machine was fed since it started.
    pub fn state(&self, id: NodeId) -> u64 {
        self.hosts[&id].state
    }

    /// The last index known to be committed anywhere, and whether a live node leads.
    pub fn committed(&self) -> Index {
        self.checker.committed()
    }

    /// All live nodes that lead, each in its own term.
    pub fn leaders(&self) -> Vec<NodeId> {
        let leads = |(id, host): (&NodeId, &Rc<Host>)| {
            (host.raft.as_ref()?.status().role == Role::Leader).then_some(*id)
        };
        self.hosts.iter().filter_map(leads).collect()
    }

    /// The live node that leads in the highest term.
    pub fn leader(&self) -> Option<NodeId> {
        let leads = |(id, host): (&NodeId, &Rc<Host>)| {
            let status = host.raft.as_ref()?.status();
            (status.role == Role::Leader).then_some((status.hard.term, *id))
        };
        self.hosts.iter().filter_map(leads).max().map(|(_, id)| id)
    }

    /// Calls the core of a live node and takes what it then owes.
    pub fn call<T>(&mut self, id: NodeId, call: impl FnOnce(&mut Recorded, Now) -> T) -> Option<T> {
        self.call_with(id, Input::Local, call)
    }

    /// The same for a call that brings something the model must know of.
    fn call_with<T>(
        &mut self,
        id: NodeId,
        input: Input,
        call: impl FnOnce(&mut Recorded, Now) -> T,
    ) -> Option<T> {
        let host = Rc::make_mut(self.hosts.get_mut(&id)?);
        let raft = host.raft.as_mut()?;
        let result = call(raft, host.now);
        match &mut host.turn {
            Some(turn) => {
                turn.inputs.push(input);
                turn.statuses.push(raft.status());
            }
            None => self.poll(id, Turn { inputs: vec![input], ..Turn::default() }),
        }
        Some(result)
    }

    /// From now on the node's core is not polled after each call, but once, by [`World::end_turn`].
    /// Whether that is new.
    pub fn begin_turn(&mut self, id: NodeId) -> bool {
        let host = self.host_mut(id);
        let begins = host.raft.is_some() && host.turn.is_none();
        if begins {
            host.turn = Some(Turn::default());
        }
        begins
    }

    /// Whether calls of the node's core wait for a poll, or are to.
    pub fn in_turn(&self, id: NodeId) -> bool {
        self.hosts[&id].turn.is_some()
    }

    /// Polls the node's core after all calls of its turn.
    pub fn end_turn(&mut self, id: NodeId) {
        if let Some(turn) = self.host_mut(id).turn.take() {
            self.poll(id, turn);
        }
    }

    /// Starts a node from its disk, with links to all others.
    ///
    /// # Panics
    /// If the core refuses to open.
    pub fn start(&mut self, id: NodeId, seed: u64) {
        self.start_alone(id, seed);
        for peer in self.ids() {
            if peer != id {
                self.connect(id, peer);
            }
        }
    }

    /// Starts a node from its disk, and tells it nothing of others.
    ///
    /// # Panics
    /// If the core refuses to open.
    pub fn start_alone(&mut self, id: NodeId, seed: u64) {
        let recorded = self.recorded == Some(id);
        let host = self.host_mut(id);
        assert!(host.raft.is_none(), "n{id} runs already");
        let restored = host.disk.restored();
        host.log = host.disk.log.clone();
        let first = Conf::of_voters(host.config.voters.clone());
        (host.state, host.state_at) = match &host.disk.checkpoint {
            Some(image) => (image.state, (image.snapshot.id.at, image.snapshot.conf.clone())),
            None => (0, (EntryId::default(), (Index(0), first))),
        };
        let commit = host.state_at.0.index;
        host.epoch += 1;
        host.role = (Role::Follower, restored.hard.term);
        // Drawn at random by a real host, so lower as often as higher.
        host.config.epoch = 1_000_000 - host.epoch;
        let raft = Recorded::open(host.config.clone(), restored, seed, host.now, recorded);
        host.raft = Some(raft.expect("a disk that a core wrote opens"));
        let (log, hard) = (host.log.clone(), host.disk.hard);
        self.checker().started(id);
        self.checker().appended(id, &log, 0);
        self.checker().synced(id, hard);
        let ids = log.iter().map(|entry| entry.id).collect();
        self.model().started(id, hard, ids, commit);
        self.poll(id, Turn { inputs: vec![Input::Local], ..Turn::default() });
    }

    /// From its next start on, all calls of that node's cores are recorded.
    pub fn record(&mut self, id: NodeId) {
        self.recorded = Some(id);
    }

    /// The tapes of the recorded node, one for each time it was started.
    pub fn tapes(&mut self) -> Vec<String> {
        if let Some(id) = self.recorded {
            self.end_tape(id);
        }
        std::mem::take(&mut self.tapes)
    }

    fn end_tape(&mut self, id: NodeId) {
        let raft = self.hosts[&id].raft.as_ref();
        self.tapes.extend(raft.and_then(|raft| raft.tape()).map(str::to_string));
    }

    /// Stops a node; of its unsynced writes the first `keep` reached the disk.
    pub fn crash(&mut self, id: NodeId, keep: usize) {
        self.end_tape(id);
        let host = self.host_mut(id);
        host.raft = None;
        for _ in 0..keep.min(host.disk.unsynced()) {
            host.disk.sync_one();
        }
        host.disk.unsynced.clear();
        host.held.clear();
        host.appendable.clear();
        host.fetches.clear();
        host.unreported = None;
        host.readers.clear();
        host.turn = None;
        host.installing = None;
        self.reads.retain(|(reader, _), _| *reader != id);
        let host = self.host_mut(id);
        let hard = host.disk.hard;
        self.checker().synced(id, hard);
    }

    /// A replica that is down was deleted: of all it had, term and vote are left, and a new one in its
    /// place was not there from the beginning (R21).
    pub fn delete(&mut self, id: NodeId) {
        let host = self.host_mut(id);
        assert!(host.raft.is_none(), "n{id} runs");
        host.disk.log.clear();
        host.log.clear();
        host.config.voters.clear();
    }

    /// A new link between two nodes: both ends hear of it, if they are up.
    pub fn connect(&mut self, a: NodeId, b: NodeId) {
        self.links += 1;
        for (at, peer) in [(a, b), (b, a)] {
            let up = NodeLiveness::Up { epoch: self.hosts[&peer].epoch, link: self.links };
            self.call(at, |raft, now| raft.liveness(now, peer, up));
        }
    }

    /// Offers commands; how many the node took.
    pub fn propose(
        &mut self,
        id: NodeId,
        commands: Vec<Bytes>,
    ) -> Option<raft_core::effects::Proposed> {
        self.call(id, |raft, now| raft.propose(now, &mut commands.into_iter()))
    }

    /// Asks a node for a read index. Whether it took the question.
    pub fn read(
        &mut self,
        id: NodeId,
        read: ReadId,
        mode: ReadMode,
    ) -> Option<Result<(), Refused>> {
        self.reads.insert((id, read), self.checker.committed());
        let asked = self.call(id, |raft, now| raft.read_index(now, read, mode));
        if !matches!(asked, Some(Ok(()))) {
            self.reads.remove(&(id, read));
        }
        asked
    }

    /// Syncs up to `count` writes in order, then says so once.
    pub fn sync(&mut self, id: NodeId, count: usize) {
        let mut token = None;
        for _ in 0..count {
            let disk = &mut self.host_mut(id).disk;
            let Some((synced, image)) = disk.sync_one() else { break };
            token = Some(synced);
            let hard = disk.hard;
            if image.is_some() {
                self.host_mut(id).installing = image;
            }
            self.checker().synced(id, hard);
            self.model().synced(id);
            self.events.push((id, Event::Synced(synced)));
            self.release(id, synced);
        }
        let Some(token) = token else { return };
        self.call(id, |raft, now| raft.persisted(now, token));
    }

    /// Sends what waited for the write. Each message is judged by the disk as that very write left
    /// it, even if later ones are synced along with it.
    fn release(&mut self, id: NodeId, token: WriteToken) {
        let held = &mut self.host_mut(id).held;
        let ready = held.iter().take_while(|(waits, _)| *waits <= token).count();
        let ready: Vec<_> = held.drain(..ready).collect();
        for (_, envelope) in ready {
            self.leave(id, envelope);
        }
    }

    /// The link to `peer` takes `room` bytes of entries.
    pub fn pull(&mut self, id: NodeId, peer: NodeId, room: u64) -> bool {
        let Some(pull) = self.call(id, |raft, now| raft.next_append(now, peer, room)) else {
            return false;
        };
        match pull {
            Pull::Ready(message) => {
                let envelope = Envelope { to: peer, message };
                match &mut self.host_mut(id).turn {
                    Some(turn) => turn.pulled.push(envelope),
                    None => self.leave(id, envelope),
                }
                true
            }
            Pull::Needs(bytes) => self.pull(id, peer, bytes.max(room + 1)),
            Pull::Nothing => {
                self.host_mut(id).appendable.remove(&peer);
                false
            }
        }
    }

    /// Tells the core that all it handed over is applied.
    pub fn report_applied(&mut self, id: NodeId) {
        if let Some((index, bytes)) = self.host_mut(id).unreported.take() {
            self.call(id, |raft, now| raft.applied(now, index, bytes));
        }
    }

    /// Makes the state that the node has a durable checkpoint, if its log's disk is as far. Whether it
    /// did.
    pub fn checkpoint(&mut self, id: NodeId) -> bool {
        let bytes_max = self.snapshot_bytes_max;
        let host = self.host_mut(id);
        let Some(raft) = &host.raft else { return false };
        let (at, conf) = host.state_at.clone();
        let known = host.disk.checkpoint.as_ref().map(|image| image.snapshot.id.at);
        if at.index > raft.checkpointable() || at <= known.unwrap_or_default() {
            return false;
        }
        let snapshot = Snapshot {
            id: SnapshotId { at, hash: host.state },
            bytes: 1 + host.state % bytes_max,
            conf,
        };
        let log = Rc::new(host.log[..at.index.0 as usize].to_vec());
        assert!(host.disk.holds(at), "R6: n{id} has a checkpoint of {at}, not on its log's disk");
        host.disk.checkpoint = Some(Image { snapshot: snapshot.clone(), state: host.state, log });
        self.call(id, |raft, now| raft.checkpointed(now, snapshot));
        true
    }

    /// Whether that piece is the next one that its receiver waits for.
    pub fn wants(&self, chunk: &Chunk) -> bool {
        let next = (chunk.image.snapshot.id, chunk.bytes.0);
        let raft = self.hosts[&chunk.to].raft.as_ref();
        raft.is_some_and(|raft| raft.incoming() == Some(next))
    }

    /// A piece of a snapshot arrives; with `corrupt` the whole is found to be something else.
    pub fn chunk(&mut self, chunk: Chunk, corrupt: bool) {
        if !self.wants(&chunk) {
            return;
        }
        let Chunk { to: id, bytes: (_, to), image } = chunk;
        let name = image.snapshot.id;
        let host = self.host_mut(id);
        let whole = to == image.snapshot.bytes;
        if whole && corrupt {
            host.disk.discard(name);
            self.call(id, |raft, now| raft.snapshot(now, SnapEvent::Corrupt { id: name }));
            return;
        }
        host.disk.staged = Some((image, to));
        let received = SnapEvent::Received { id: name, offset: to };
        self.call(id, |raft, now| raft.snapshot(now, received));
    }

    /// The state machine takes over the snapshot that was made durable.
    pub fn installed(&mut self, id: NodeId) {
        let host = self.host_mut(id);
        let Some(image) = host.installing.take() else { return };
        let name = image.snapshot.id;
        host.state = image.state;
        host.state_at = (name.at, image.snapshot.conf);
        host.unreported = None;
        self.checker().installs(id, name);
        self.events.push((id, Event::Installed(name)));
        self.call(id, |raft, now| raft.snapshot(now, SnapEvent::Installed { id: name }));
    }

    /// Does what a node was told about snapshots; those that it cannot read any more.
    fn snaps(&mut self, id: NodeId, commands: Vec<SnapCmd>) -> Vec<NodeId> {
        let host = self.host_mut(id);
        let (mut failed, mut events) = (Vec::new(), Vec::new());
        for command in commands {
            match command {
                SnapCmd::Send { peer, id: name, from, to } => {
                    let held = host.readers.get(&peer).or(host.disk.checkpoint.as_ref());
                    let Some(image) = held.filter(|image| image.snapshot.id == name).cloned()
                    else {
                        failed.push(peer);
                        continue;
                    };
                    host.readers.insert(peer, image.clone());
                    for at in (from..to).step_by(CHUNK_BYTES as usize) {
                        let bytes = (at, to.min(at + CHUNK_BYTES));
                        events.push(Event::Chunk(Chunk { to: peer, bytes, image: image.clone() }));
                    }
                }
                SnapCmd::Stop { peer, .. } => {
                    host.readers.remove(&peer);
                    events.push(Event::Snap(command));
                }
                SnapCmd::Discard { id: name } => {
                    host.disk.discard(name);
                    events.push(Event::Snap(command));
                }
            }
        }
        self.events.extend(events.into_iter().map(|event| (id, event)));
        failed
    }

    /// Answers the oldest fetch.
    pub fn answer_fetch(&mut self, id: NodeId) {
        let host = self.host_mut(id);
        let Some((fetch, read)) = host.fetches.pop_front() else { return };
        let result = read.unwrap_or_else(|| host.disk.read(&fetch));
        self.call(id, |raft, now| raft.fetched(now, fetch.id, result));
    }

    /// Gives a message to a node. Whether the node took it.
    pub fn deliver(&mut self, from: NodeId, to: NodeId, message: Message) -> Result<(), String> {
        let input = Input::Message(from, message.clone());
        match self.call_with(to, input, |raft, now| raft.step(now, from, message)) {
            Some(Err(reject)) => Err(reject.to_string()),
            Some(Ok(())) | None => Ok(()),
        }
    }

    fn leave(&mut self, id: NodeId, envelope: Envelope) {
        self.checker.leaves(id, &envelope, &self.hosts[&id].disk);
        self.model.leaves(id, &envelope);
        self.events.push((id, Event::Sent(envelope)));
    }

    fn poll(&mut self, id: NodeId, turn: Turn) {
        let host = self.host_mut(id);
        let Some(raft) = &mut host.raft else { return };
        let mut effects = Effects::default();
        let owed = raft.poll(host.now, &mut effects);
        assert_eq!(owed, !effects.is_empty(), "poll says what it owes");
        let status = raft.status();
        let installs = effects.write.as_ref().is_some_and(|write| write.install.is_some());
        let image = host.disk.image(effects.write.as_ref());
        let whole = image.as_ref().map(|image| image.log.iter().map(|entry| entry.id).collect());
        assert_eq!(installs, whole.is_some(), "n{id} installs what is not whole");
        let Turn { inputs, statuses, pulled } = turn;
        let (between, write) = (statuses.clone(), effects.write.clone());
        self.model().step(id, Step { inputs, between, status, write, whole });
        self.take(id, &mut effects);
        self.check(id, &statuses);
        pulled.into_iter().for_each(|envelope| self.leave(id, envelope));
        for peer in self.snaps(id, effects.snaps) {
            self.call(id, |raft, now| raft.snapshot(now, SnapEvent::Failed { peer }));
        }
    }

    fn take(&mut self, id: NodeId, effects: &mut Effects) {
        let host = Rc::make_mut(self.hosts.get_mut(&id).expect("a node of this world"));
        let checker = Rc::make_mut(&mut self.checker);
        let mut events = Vec::new();
        if let Some(role) = effects.role {
            let before = std::mem::replace(&mut host.role, (role.role, role.term));
            events.push(Event::Role { before, after: host.role, leader: role.leader });
        }
        if let Some(write) = effects.write.take() {
            let image = host.disk.image(Some(&write));
            let from = overwrite(&mut host.log, &write, image.as_ref());
            checker.appended(id, &host.log, from);
            host.disk.unsynced.push_back((write.clone(), image));
            events.push(Event::Write(write));
        }
        if let Some(role) = effects.role
            && role.role == Role::Leader
        {
            checker.leads(id, role.term, &host.log);
        }
        host.held.extend(effects.send_after.drain(..));
        host.appendable.extend(effects.appendable.iter());
        for entry in effects.commit.drain(..) {
            let next = host.state_at.0.index.next();
            assert_eq!(entry.id.index, next, "n{id} applies what does not follow");
            host.state = checker.applies(id, &entry, host.role.1, host.state);
            host.state_at.0 = entry.id;
            if let Some(conf) = Conf::of_entry(&entry) {
                host.state_at.1 = (entry.id.index, conf);
            }
            let (index, bytes) = host.unreported.get_or_insert((Index(0), 0));
            *index = entry.id.index;
            *bytes += entry.frame.len() as u64;
            events.push(Event::Applied(entry));
        }
        for (read, index) in effects.reads.drain(..) {
            let committed = self.reads.remove(&(id, read)).expect("a read that waits");
            assert!(index >= committed, "I13: n{id} reads at {index}, {committed} was committed");
            events.push(Event::Read(read, index));
        }
        for read in effects.reads_failed.drain(..) {
            self.reads.remove(&(id, read)).expect("a read that waits");
            events.push(Event::ReadFailed(read));
        }
        events.extend(effects.conf.take().map(Event::Conf));
        events.extend(effects.removed.take().map(Event::Removed));
        if let Some(base) = effects.compact.take() {
            let covered = host.disk.checkpoint.as_ref().map(|image| image.snapshot.id.at);
            assert!(covered >= Some(base), "P6: n{id} drops its log to {base}, not covered");
            host.disk.base = base;
            events.push(Event::Compact(base));
        }
        for fetch in effects.fetch.drain(..) {
            events.push(Event::Fetch(fetch.clone()));
            // Some are read at once, some when they are answered: the log may change in between.
            let read = (fetch.id.0 % 2 == 0).then(|| host.disk.read(&fetch));
            host.fetches.push_back((fetch, read));
        }
        self.events.extend(events.into_iter().map(|event| (id, event)));
        for envelope in effects.send.drain(..) {
            self.leave(id, envelope);
        }
    }

    /// Checks a core that was just called; a leader against all disks.
    fn check(&mut self, id: NodeId, between: &[Status]) {
        let host = &self.hosts[&id];
        let Some(raft) = &host.raft else { return };
        invariants::check(raft);
        let last = host.log.last().map_or(EntryId::default(), |entry| entry.id);
        assert_eq!(last, raft.status().last, "n{id}: its writes lead to another log");
        let checker = Rc::make_mut(&mut self.checker);
        checker.only_grows(id, &raft.status());
        memory_within(id, &raft.memory(), &host.config);
        let disks: Vec<(NodeId, &Disk)> =
            self.hosts.iter().map(|(id, host)| (*id, &host.disk)).collect();
        checker.leader_commit(id, raft, &host.log, &disks, between);
    }
}
