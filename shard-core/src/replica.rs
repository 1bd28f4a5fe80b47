//! One Raft replica with its state machine and the clients that wait on its log.
//!
//! The early checks here save a round trip; the checks when an entry is applied are the ones that
//! count. A client is answered only after its entry was applied on this node, and only if the entry
//! applied at that index has the term it was proposed in (scenarios C7, C10). What only reads takes
//! no entry: [`reads`].

mod admission;
mod checkpoints;
mod closing;
mod collect;
mod error;
mod members;
mod mover;
mod reads;

pub use self::checkpoints::{CheckpointConfig, STAGED_BYTES_MAX};
pub use self::error::ReplicaError;
pub use self::mover::{PARKED_BYTES_MAX, PARKED_MAX, SLOTS_AT_ONCE_MAX};

use self::checkpoints::Checkpoints;
use self::collect::Collection;
use self::members::Members;
use self::mover::Mover;
use self::reads::Reads;
use crate::checkpoint::StateCommand;
use crate::cluster_config::{ClusterConfig, ConfigNum};
use crate::cluster_map::{ClusterMap, GroupMembers};
use crate::codec::{self, EntryBatch, EntryItem};
use crate::disk_room::DiskRoom;
use crate::machine::Machine;
use crate::memory::MemoryUse;
use crate::migration::{MoveEnvelope, MoveStep};
use crate::op::Op;
use crate::session::LogTime;
use crate::shard_store::{Mutant, is_broken};
use crate::wire::{Answer, GroupAnswer, LeaderView, ReplicaStatus, Reply, TransferAnswer};
use raft_core::conf::Conf;
use raft_core::effects::{Effects, Envelope, FetchResult, Refused, Role, RoleChange, Write};
use raft_core::message::Message;
use raft_core::types::{
    Entry, EntryId, EntryKind, FetchId, GroupId, Index, NodeId, Now, Term, WriteToken,
};
use raft_core::{Config, OpenError, Raft, Restored};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Where a request came from; names one router's link, or the router in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(pub u64);

/// Items put into one entry at most; what arrives in one turn beyond it makes further entries.
pub const ENTRY_ITEMS_MAX: usize = 1024;
/// An entry is closed once its items reach this many payload bytes; one item may be larger.
pub const ENTRY_BYTES_SOFT_MAX: usize = 256 << 10;
/// Requests that may wait for one group's log; beyond it they are answered `Busy`.
pub const WAITING_MAX: usize = 64 << 10;
/// Rounds of "apply what is committed, then look again" in one poll; the rest waits for the next
/// turn, so that a long replay holds up no heartbeat.
const ROUNDS_PER_POLL_MAX: usize = 4;
/// What a lane's request counts as besides its keys and values.
const LANE_ITEM_BYTES: usize = 64;

/// A client that waits for an item of an entry.
#[derive(Clone, Copy, Debug)]
struct Client {
    origin: Origin,
    id: u64,
}

/// The clients of one proposed entry. `None`: an item of our own.
#[derive(Debug)]
struct Waiting {
    term: Term,
    clients: Vec<Option<Client>>,
}

/// What this replica owes since the last poll; the node merges those of all its replicas.
#[derive(Debug, Default)]
pub struct ReplicaOutput {
    /// To disk, in order.
    pub writes: Vec<Write>,
    /// To peers, now.
    pub messages: Vec<Envelope>,
    /// Peers that should pull.
    pub appendable: Vec<NodeId>,
    /// Entries to be read from the log.
    pub fetches: Vec<raft_core::effects::Fetch>,
    /// To clients.
    pub replies: Vec<(Origin, Reply)>,
    /// The newest role change, if there was one.
    pub role: Option<RoleChange>,
    /// To other groups, at these nodes: of slots that move.
    pub moves: Vec<(NodeId, MoveEnvelope)>,
    /// For the disk that has the state, in order.
    pub state: Vec<StateCommand>,
    /// The state whose place a snapshot takes.
    pub given_up: Option<Machine>,
    /// The log up to here is not needed any more.
    pub compact: Option<EntryId>,
    /// The group has other members.
    pub members_changed: bool,
    /// For the shardmaster: who is in the group.
    pub members: Option<GroupMembers>,
    /// A checkpoint waits for its turn, has had it, or is over.
    pub checkpoint_moved: bool,
    /// Something that clients sent was applied.
    pub served: bool,
}

/// What a replica starts from.
#[derive(Debug, Default)]
pub struct Recovered {
    /// What its log kept.
    pub raft: Restored,
    /// The state of the checkpoint that the log continues. There is one if and only if there is a
    /// checkpoint.
    pub machine: Option<Machine>,
}

impl From<Restored> for Recovered {
    /// Of a log that was never compacted.
    fn from(raft: Restored) -> Recovered {
        Recovered { raft, machine: None }
    }
}

/// What is the same for all replicas of a node.
#[derive(Clone, Debug)]
pub struct ReplicaSetup {
    /// The configuration that the cluster starts with; it matters only until the group's first leader
    /// has put it into the log.
    pub bootstrap: Arc<ClusterConfig>,
    /// When checkpoints are taken; None: never.
    pub checkpoints: Option<CheckpointConfig>,
}

/// One group's member on this node.
#[derive(Debug)]
pub struct Replica {
    group: GroupId,
    /// This node.
    own: NodeId,
    raft: Raft,
    /// The other nodes of the newest configuration.
    others: Vec<NodeId>,
    /// Empty while a snapshot is being installed.
    machine: Machine,
    /// What the first leader of the group proposes; see [`EntryItem::Assign`].
    bootstrap: Arc<ClusterConfig>,
    bootstrap_proposed: bool,
    role: RoleChange,
    /// This replica leads and has applied an entry of its own term: its state is current enough for
    /// early refusals.
    settled: bool,
    /// The last stamp given as leader.
    last_stamp: LogTime,
    /// This leader's clock is behind its stamps: since when, and what the newest was then.
    behind: Option<(Now, LogTime)>,
    /// Bytes that entries proposed from here on may take, until the node tells anew.
    room: u64,
    /// What the node's disk has left.
    disk: DiskRoom,
    /// Clients are served by the node or by one whose slots come here.
    serves: bool,
    /// What peers speak, as far as they were ever heard.
    versions: Arc<BTreeMap<NodeId, u8>>,
    batch: Batch,
    waiting: BTreeMap<Index, Waiting>,
    waiting_count: usize,
    reads: Reads,
    collection: Collection,
    mover: Mover,
    members: Members,
    held: VecDeque<(WriteToken, Envelope)>,
    effects: Effects,
    /// The last entry that is in the state.
    applied: EntryId,
    checkpoints: Checkpoints,
}

/// Items that arrived since the last poll.
#[derive(Debug, Default)]
struct Batch {
    items: Vec<EntryItem>,
    clients: Vec<Option<Client>>,
    bytes: Vec<usize>,
}

impl Replica {
    /// Opens the replica on what the disk kept.
    ///
    /// # Errors
    /// If the settings or what was recovered cannot be right.
    ///
    /// # Panics
    /// If there is a checkpoint without its state, or a state without its checkpoint.
    pub fn open(
        config: Config,
        recovered: Recovered,
        setup: ReplicaSetup,
        seed: u64,
        now: Now,
    ) -> Result<Replica, OpenError> {
        let (group, own) = (config.group, config.id);
        let ReplicaSetup { bootstrap, checkpoints } = setup;
        let Recovered { raft: restored, machine } = recovered;
        let checkpoint = restored.checkpoint.clone();
        assert_eq!(checkpoint.is_some(), machine.is_some(), "a checkpoint is its state");
        let applied = checkpoint.as_ref().map_or_else(EntryId::default, |whole| whole.id.at);
        let first = (Index(0), Conf::of_voters(config.voters.clone()));
        let conf = checkpoint.map_or(first, |whole| whole.conf);
        let raft = Raft::open(config, restored, seed, now)?;
        let status = raft.status();
        let others = others_of(&status.conf, own);
        let machine = machine.unwrap_or_else(|| Machine::new(group));
        Ok(Replica {
            group,
            own,
            raft,
            others,
            machine,
            bootstrap,
            bootstrap_proposed: false,
            role: RoleChange { role: status.role, term: status.hard.term, leader: status.leader },
            settled: false,
            last_stamp: LogTime(0),
            behind: None,
            room: u64::MAX,
            disk: DiskRoom::default(),
            serves: false,
            versions: Arc::default(),
            batch: Batch::default(),
            waiting: BTreeMap::new(),
            waiting_count: 0,
            reads: Reads::default(),
            collection: Collection::default(),
            mover: Mover::default(),
            members: Members::default(),
            held: VecDeque::new(),
            effects: Effects::default(),
            applied,
            checkpoints: Checkpoints::new(checkpoints, conf, applied.index, status.last.index),
        })
    }

    /// A message from a peer's replica. What is malformed is dropped; the caller counts it.
    pub fn step(
        &mut self,
        now: Now,
        from: NodeId,
        message: Message,
    ) -> Result<(), raft_core::effects::Reject> {
        self.raft.step(now, from, message)
    }

    /// The stamp for an entry proposed now: the wall clock, but log time never goes back.
    fn stamp(&self, wall: LogTime) -> LogTime {
        wall.max(self.machine.log_time()).max(self.last_stamp)
    }

    /// The clock, or while that is behind the stamps that this leader has to follow, half its speed: log time
    /// does not go back, and does not stand still for as long as they are ahead.
    fn paced(&mut self, now: Now, wall: LogTime) -> LogTime {
        let stamped = self.stamp(LogTime(0));
        if self.role.role != Role::Leader || wall >= stamped || is_broken(Mutant::LogTimeStands) {
            self.behind = None;
            return wall;
        }
        let (since, from) = *self.behind.get_or_insert((now, stamped));
        LogTime(from.0.saturating_add(now.saturating_sub(since) / 2_000_000)).max(wall)
    }

    /// The writes up to `token` are on disk.
    pub fn persisted(&mut self, now: Now, token: WriteToken, out: &mut ReplicaOutput) {
        self.raft.persisted(now, token);
        while self.held.front().is_some_and(|(needs, _)| *needs <= token) {
            out.messages.extend(self.held.pop_front().map(|(_, envelope)| envelope));
        }
    }

    /// Entries asked for have been read.
    pub fn fetched(&mut self, now: Now, id: FetchId, result: FetchResult) {
        self.raft.fetched(now, id, result);
    }

    /// The link to a peer's node came or went.
    pub fn liveness(&mut self, now: Now, peer: NodeId, state: raft_core::effects::NodeLiveness) {
        self.raft.liveness(now, peer, state);
    }

    /// Lets due timers act.
    pub fn tick(&mut self, now: Now) {
        self.raft.tick(now);
    }

    /// When `tick` should be called next.
    pub fn deadline(&self) -> Option<Now> {
        // One that waits for room is begun when the host tells that there is more.
        let room = self.disk.has_room_for(self.machine.dirty());
        let checkpoint = self.checkpoints.deadline().filter(|_| room);
        let (reads, moves) = (self.reads.deadline(), self.mover.deadline());
        let members = self.members.deadline();
        let own = [reads, self.collection.deadline(), checkpoint, moves, members];
        self.raft.deadline().into_iter().chain(own.into_iter().flatten()).min()
    }

    /// AppendEntries for a peer whose link can take bytes; one entry larger than `room` goes alone.
    pub fn next_append(&mut self, now: Now, peer: NodeId, room: u64) -> Option<Message> {
        use raft_core::effects::Pull;
        match self.raft.next_append(now, peer, room) {
            Pull::Ready(message) => Some(message),
            Pull::Nothing => None,
            Pull::Needs(bytes) => match self.raft.next_append(now, peer, bytes) {
                Pull::Ready(message) => Some(message),
                Pull::Needs(_) | Pull::Nothing => None,
            },
        }
    }

    /// Tells how much room the node's disk has left.
    pub fn set_disk(&mut self, disk: DiskRoom) {
        self.disk = disk;
    }

    /// Tells whether clients were served a moment ago: moves give way to them.
    pub fn set_serves(&mut self, serves: bool) {
        self.serves = serves;
    }

    /// Tells which versions of the protocol peers speak ([`crate::handshake`]).
    pub fn set_versions(&mut self, versions: &Arc<BTreeMap<NodeId, u8>>) {
        if !Arc::ptr_eq(&self.versions, versions) {
            self.versions = Arc::clone(versions);
        }
    }

    /// Whether requests for a slot wait here.
    #[cfg(test)]
    pub(crate) fn parks(&self, slot: crate::slot::Slot) -> bool {
        self.mover.parks(slot)
    }

    /// Whether a node speaks at least this version. One that was never heard does not.
    fn speaks(&self, node: NodeId, version: u8) -> bool {
        node == self.own || self.versions.get(&node).is_some_and(|spoken| *spoken >= version)
    }

    /// Whether all who have the group's log, or are about to, speak at least this version.
    fn all_speak(&self, version: u8) -> bool {
        self.others.iter().all(|member| self.speaks(*member, version))
    }

    /// Whether one who has the group's log is known to speak an older one.
    fn knows_older(&self, version: u8) -> bool {
        self.others.iter().any(|member| self.is_older(*member, version))
    }

    /// Whether a node is known to speak an older one.
    fn is_older(&self, node: NodeId, version: u8) -> bool {
        self.versions.get(&node).is_some_and(|spoken| *spoken < version)
    }

    /// Tells how many bytes of memory the node has left. None left: what is proposed then may take no
    /// more.
    pub fn set_room(&mut self, bytes: u64) {
        self.room = bytes;
    }

    /// What it takes in memory. A state that is on its way counts as the snapshot that it comes from.
    pub fn memory(&self) -> MemoryUse {
        let raft = self.raft.memory();
        // What is on its way to the disk is in the cache as well, until it is overwritten.
        let overwritten = raft.unsynced_bytes.saturating_sub(raft.unsettled_bytes);
        let log = raft.cache_bytes + raft.fetched_bytes + overwritten + raft.counted_bytes();
        let state = match self.checkpoints.installing() {
            Some(snapshot) => MemoryUse { values: snapshot.bytes, ..MemoryUse::default() },
            None => self.machine.memory(),
        };
        MemoryUse { log, ..state }
    }

    /// Proposes what arrived, applies what is committed and collects what is owed. Returns whether
    /// there is more to do at once.
    pub fn poll(
        &mut self,
        now: Now,
        wall: LogTime,
        map: &ClusterMap,
        out: &mut ReplicaOutput,
    ) -> Result<bool, ReplicaError> {
        let wall = self.paced(now, wall);
        self.propose_batch(now, wall, out);
        self.propose_collection(now, wall);
        self.ask_for_reads(now, out);
        self.drive_members(now, map);
        let again = self.rounds(now, wall, out)?;
        self.schedule_collection(now, wall);
        self.drive_checkpoint(now, out);
        self.drive_moves(now, wall, map, out);
        self.report_members(now, map, out);
        Ok(again || !self.batch.items.is_empty())
    }

    /// Returns whether there is more to do at once.
    fn rounds(
        &mut self,
        now: Now,
        wall: LogTime,
        out: &mut ReplicaOutput,
    ) -> Result<bool, ReplicaError> {
        for _ in 0..ROUNDS_PER_POLL_MAX {
            let mut effects = std::mem::take(&mut self.effects);
            let owed = self.raft.poll(now, &mut effects);
            let result = if owed { self.carry_out(now, wall, &mut effects, out) } else { Ok(()) };
            self.effects = effects;
            result?;
            if !owed {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn carry_out(
        &mut self,
        now: Now,
        wall: LogTime,
        effects: &mut Effects,
        out: &mut ReplicaOutput,
    ) -> Result<(), ReplicaError> {
        self.write(effects, out);
        out.messages.append(&mut effects.send);
        self.held.extend(effects.send_after.drain(..));
        out.appendable.extend(effects.appendable.iter());
        out.fetches.append(&mut effects.fetch);
        if let Some(change) = effects.role.take() {
            self.on_role(change, out);
        }
        if let Some(view) = effects.conf.take() {
            self.others = others_of(&view.conf, self.own);
            out.members_changed = true;
        }
        self.note_reads(effects, out);
        for entry in effects.commit.drain(..) {
            self.apply(&entry, out)?;
            self.checkpoint_behind(&entry, out);
            self.raft.applied(now, entry.id.index, entry.frame.len() as u64);
        }
        self.serve_reads(now, wall, out);
        self.propose_bootstrap(now, wall, out);
        Ok(())
    }

    /// A leader that lost its place cannot tell what becomes of its entries: their clients ask the
    /// next leader, and the lane tells (E19).
    fn on_role(&mut self, change: RoleChange, out: &mut ReplicaOutput) {
        if change.role != Role::Leader || change.term != self.role.term {
            self.settled = false;
            self.bootstrap_proposed = false;
            for (_, waiting) in std::mem::take(&mut self.waiting) {
                answer_all(&waiting.clients, &Answer::Lost, out);
            }
            self.waiting_count = 0;
            self.forget_collection();
            self.fail_reads(&Answer::NotLeader { hint: change.leader }, out);
            self.forget_moves(&Answer::NotLeader { hint: change.leader }, out);
        }
        self.role = change;
        out.role = Some(change);
    }

    fn apply(&mut self, entry: &Entry, out: &mut ReplicaOutput) -> Result<(), ReplicaError> {
        let index = entry.id.index;
        self.applied = entry.id;
        if self.role.role == Role::Leader && entry.id.term == self.role.term {
            self.settled = true;
        }
        let waiting = self.waiting.remove(&index);
        self.waiting_count -= waiting.as_ref().map_or(0, |waiting| waiting.clients.len());
        let answers = match entry.kind {
            EntryKind::Empty | EntryKind::Conf => Vec::new(),
            EntryKind::Command => {
                let batch = codec::decode_batch(&entry.payload())
                    .map_err(|source| ReplicaError::Entry { group: self.group, index, source })?;
                out.served |= batch.items.iter().any(|item| matches!(item, EntryItem::Lane(_)));
                self.run(batch)
            }
        };
        let Some(waiting) = waiting else { return Ok(()) };
        if waiting.term != entry.id.term {
            answer_all(&waiting.clients, &Answer::Lost, out);
            return Ok(());
        }
        for (client, answer) in waiting.clients.iter().zip(answers) {
            if let Some(Client { origin, id }) = *client {
                out.replies.push((origin, Reply { id, answer }));
            }
        }
        Ok(())
    }

    fn run(&mut self, batch: EntryBatch) -> Vec<Answer> {
        self.reads.note_applied(&batch);
        match &mut self.machine {
            Machine::Shard(store) => store.apply(batch),
            Machine::Master(master) => master.apply(batch),
        }
    }

    /// The first leader of a group puts the bootstrap configuration into its log: from then on the
    /// log alone says what the group owns.
    fn propose_bootstrap(&mut self, now: Now, wall: LogTime, out: &mut ReplicaOutput) {
        if !self.settled || self.bootstrap_proposed {
            return;
        }
        let item = match &self.machine {
            Machine::Master(master) => (master.newest().num == ConfigNum(0))
                .then(|| EntryItem::Bootstrap(ClusterConfig::clone(&self.bootstrap))),
            Machine::Shard(store) => {
                let ranges: Vec<_> =
                    self.bootstrap.ranges_of(self.group).map(|r| (r.first, r.last)).collect();
                (!store.is_assigned() && !ranges.is_empty())
                    .then_some(EntryItem::Assign { config: self.bootstrap.num, ranges })
            }
        };
        self.bootstrap_proposed = true;
        if let Some(item) = item {
            self.batch.push(item, None, 1024);
            self.propose_batch(now, wall, out);
        }
    }

    /// One entry carries what arrived in one turn, within the bounds of an entry.
    fn propose_batch(&mut self, now: Now, wall: LogTime, out: &mut ReplicaOutput) {
        if self.batch.items.is_empty() {
            return;
        }
        let stamp = self.stamp(wall);
        if self.disk.low {
            self.batch.leave_out_what_grows();
        }
        if is_broken(Mutant::ServeUncommitted) {
            let imports = self.batch.items.iter();
            let imports =
                imports.filter(|item| matches!(item, EntryItem::Move(MoveStep::Import { .. })));
            let items = imports.cloned().collect();
            self.run(EntryBatch::new(stamp, items));
        }
        let (payloads, mut clients) = self.batch.take_entries(stamp, &mut self.room);
        let proposed = self.raft.propose(now, &mut payloads.into_iter());
        let rest = clients.split_off((proposed.count as usize).min(clients.len()));
        if proposed.count > 0 {
            self.last_stamp = stamp;
        }
        for (clients, offset) in clients.into_iter().zip(0..) {
            let index = Index(proposed.first.index.0 + offset);
            self.waiting_count += clients.len();
            self.waiting.insert(index, Waiting { term: proposed.first.term, clients });
        }
        let Some(refused) = proposed.refused else { return };
        let answer = answer_to(refused);
        for (nth, clients) in rest.into_iter().enumerate() {
            // Only the entry that was refused is too big; what stood behind it was not looked at.
            let answer = if nth > 0 && answer == Answer::Invalid { &Answer::Busy } else { &answer };
            self.bootstrap_proposed &= !clients.iter().any(Option::is_none);
            answer_all(&clients, answer, out);
        }
    }

    /// The last entry that is in the applied state.
    pub fn applied(&self) -> EntryId {
        self.applied
    }

    /// The applied state. None while a snapshot is being installed: the one so far is given up, and the
    /// one that comes is not here.
    pub fn machine(&self) -> Option<&Machine> {
        (!self.is_installing() || is_broken(Mutant::EmptyIsTheState)).then_some(&self.machine)
    }

    /// The leader it believes in.
    pub fn leader(&self) -> LeaderView {
        LeaderView { leader: self.role.leader, term: self.role.term }
    }

    /// Begins to hand leadership to another node.
    ///
    /// # Errors
    /// What whoever asked for it is to be told, if that cannot be.
    pub fn transfer(&mut self, now: Now, to: NodeId) -> Result<(), Answer> {
        self.raft.transfer(now, to).map_err(|refused| match refused {
            Refused::NotVoter(_) => Answer::Group(GroupAnswer::Transfer(TransferAnswer::NotVoter)),
            Refused::NotLeader { hint } => Answer::NotLeader { hint },
            Refused::Transferring { to } => Answer::NotLeader { hint: Some(to) },
            Refused::Busy | Refused::TooBig { .. } | Refused::ConfPending | Refused::Conf(_) => {
                Answer::Busy
            }
        })
    }

    /// Whom it hands leadership to, while it does.
    pub fn transferring(&self) -> Option<NodeId> {
        self.raft.transferring()
    }

    /// Whether it leads, and has not begun to hand that over.
    pub fn leads_on(&self) -> bool {
        self.leads() && self.transferring().is_none()
    }

    /// Whether it leads.
    pub fn leads(&self) -> bool {
        self.role.role == Role::Leader
    }

    /// The newest change of its role.
    pub fn role(&self) -> RoleChange {
        self.role
    }

    /// Of the other voters that may lead, the one that lacks least of the log. A learner cannot lead.
    pub fn successor(&self, may_lead: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let status = self.raft.status();
        let voters = |node: &NodeId| status.conf.voters.contains(node);
        let matched = status.matched.iter().copied();
        matched
            .filter(|(node, _)| voters(node) && may_lead(*node))
            .max_by_key(|(_, at)| *at)
            .map(|(node, _)| node)
    }

    /// The other nodes of the group, learners included.
    pub fn other_members(&self) -> &[NodeId] {
        &self.others
    }

    /// Whether nothing waits to be answered here.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && self.batch.items.is_empty()
            && self.reads.count() == 0
            && self.mover.parked() == 0
    }

    /// For INFO.
    pub fn status(&self, now: Now) -> ReplicaStatus {
        let raft = self.raft.status();
        let mut status = ReplicaStatus {
            role: match raft.role {
                Role::Leader => "leader",
                Role::Follower => "follower",
                Role::Candidate => "candidate",
                Role::PreCandidate => "pre-candidate",
            },
            term: raft.hard.term,
            leader: raft.leader,
            last: raft.last.index,
            commit: raft.commit,
            applied: self.applied.index,
            checkpoint: raft.checkpoint,
            log_base: raft.base.index,
            dirty_keys: self.machine.dirty().keys,
            dirty_bytes: self.machine.dirty().bytes,
            installs: self.checkpoints.installs(),
            installing: self.machine().is_none(),
            voted_for: raft.hard.voted_for,
            durable: raft.durable,
            lease: self.leads() && self.raft.lease_holds(now),
            transferring: raft.transferring,
            matched: raft.matched.into_iter().collect(),
            sending: raft.sending.into_iter().map(|(node, how)| (node, how.name())).collect(),
            ..ReplicaStatus::default()
        };
        if let Machine::Shard(store) = &self.machine {
            let stats = store.stats();
            status.keys = stats.keys;
            status.expires = stats.expires;
            status.data_bytes = stats.data_bytes;
            status.lanes = stats.lanes;
            status.tokens = stats.tokens;
            status.lane_bytes = stats.lane_bytes;
        }
        status
    }

    /// A digest of the applied state, if there is one: equal on replicas that applied the same index (I4).
    pub fn digest(&self) -> Option<u64> {
        self.machine().map(Machine::digest)
    }
}

impl Batch {
    fn push(&mut self, item: EntryItem, client: Option<Client>, bytes: usize) {
        self.items.push(item);
        self.clients.push(client);
        self.bytes.push(bytes);
    }

    /// Puts refusals in the place of ops that may grow: unlike where memory is full, what is refused for
    /// want of disk must not go to the disk. The seqs stay, so each is answered by the log, once.
    fn leave_out_what_grows(&mut self) {
        for (item, bytes) in self.items.iter_mut().zip(&mut self.bytes) {
            if let EntryItem::Lane(request) = item
                && request.op.is_denied_when_full()
            {
                match &mut request.op {
                    // Of a copy the answer is known: only what is not done yet is refused.
                    Op::Token(token) => token.op = Op::NoRoom,
                    op => *op = Op::NoRoom,
                }
                *bytes = LANE_ITEM_BYTES + request.op.bytes();
            }
        }
    }

    /// Encodes the items as entries' payloads, each with the clients of its items. Those behind the one
    /// that takes the last of the room say so.
    fn take_entries(
        &mut self,
        stamp: LogTime,
        room: &mut u64,
    ) -> (Vec<bytes::Bytes>, Vec<Vec<Option<Client>>>) {
        let mut payloads = Vec::new();
        let mut clients = Vec::new();
        let mut items = std::mem::take(&mut self.items).into_iter();
        let mut owners = std::mem::take(&mut self.clients).into_iter();
        let mut sizes = std::mem::take(&mut self.bytes).into_iter().peekable();
        while sizes.peek().is_some() {
            let mut count = 0;
            let mut total = 0usize;
            while let Some(bytes) = sizes.next_if(|bytes| {
                count < ENTRY_ITEMS_MAX && (count == 0 || total + bytes <= ENTRY_BYTES_SOFT_MAX)
            }) {
                count += 1;
                total += bytes;
            }
            let items = items.by_ref().take(count).collect();
            let batch = EntryBatch { stamp, items, full: *room == 0 };
            *room = room.saturating_sub(total as u64);
            payloads.push(codec::encode_batch(&batch).into());
            clients.push(owners.by_ref().take(count).collect());
        }
        (payloads, clients)
    }
}

fn others_of(conf: &Conf, own: NodeId) -> Vec<NodeId> {
    conf.members().into_iter().filter(|node| *node != own).collect()
}

fn answer_to(refused: Refused) -> Answer {
    match refused {
        Refused::NotLeader { hint } => Answer::NotLeader { hint },
        Refused::Busy => Answer::Busy,
        // It does not lead yet; asked too early it says so, and the router asks again.
        Refused::Transferring { to } => Answer::NotLeader { hint: Some(to) },
        Refused::NotVoter(_) | Refused::ConfPending | Refused::Conf(_) => Answer::Invalid,
        Refused::TooBig { .. } => Answer::Invalid,
    }
}

fn answer_all(clients: &[Option<Client>], answer: &Answer, out: &mut ReplicaOutput) {
    for Client { origin, id } in clients.iter().flatten().copied() {
        out.replies.push((origin, Reply { id, answer: answer.clone() }));
    }
}
