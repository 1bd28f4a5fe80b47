//! Snapshots and the end of the log behind them (Raft section 7, thesis 5).
//!
//! The host takes checkpoints of the state machine; the core says how far the log may go after one
//! ([`Effects::compact`]), and who must get a whole state since the log that it lacks is gone. The bytes
//! never enter the core. A leader offers a snapshot by its name; the follower answers from which byte
//! on it wants it; the leader lets chunks leave within a window, its host sends them, the follower's
//! host writes them and says how far it came. So a stream that breaks goes on where it was, and from
//! any leader that has the same snapshot.
//!
//! A whole snapshot is installed by a [`Write`](crate::effects::Write) like any other: it replaces the
//! log, and what came before it on this disk. Entries reach the state machine again once the host says
//! that it holds the snapshot's state (R26).

use crate::conf::{Conf, Confs};
use crate::effects::{Effects, Reject};
use crate::message::{
    AppendEntriesReply, AppendOutcome, InstallSnapshot, InstallSnapshotReply, Message,
};
use crate::mutant::Mutant;
use crate::progress::ProgressState;
use crate::raft::{Raft, RoleState};
use crate::types::{EntryId, Index, NodeId, Now, Term};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many times [`crate::Config::snapshot_patience_ns`] a receiver may take to install what it has, before its
/// stream holds the log no more.
const INSTALL_PATIENCES: u64 = 10;

/// Names a snapshot within its group: replicas that took one at the same place give it the same name.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct SnapshotId {
    /// The last entry that is in it.
    pub at: EntryId,
    /// A hash of the state, kept by apply: known before the first byte is sent.
    pub hash: u64,
}

/// A snapshot, but for its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name.
    pub id: SnapshotId,
    /// Its size; never 0.
    pub bytes: u64,
    /// The newest configuration at or before `id.at`, and the entry that said so; 0 for what the group
    /// began with.
    pub conf: (Index, Conf),
}

/// What the host tells of snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapEvent {
    /// The stream to that peer broke, or its snapshot cannot be read any more. It is offered again, the
    /// newest snapshot then.
    Failed {
        /// The peer.
        peer: NodeId,
    },
    /// The bytes of this snapshot up to `offset` are here, durable; if that is less than before, the rest is
    /// lost.
    Received {
        /// Which.
        id: SnapshotId,
        /// How much; with the last byte the host has compared the content with the name.
        offset: u64,
    },
    /// The content is not what the name says: nothing of it is kept.
    Corrupt {
        /// Which.
        id: SnapshotId,
    },
    /// The state machine holds the state of this snapshot, whose write is durable.
    Installed {
        /// Which.
        id: SnapshotId,
    },
}

/// What the host does with snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapCmd {
    /// Bytes `from..to` of the snapshot may leave, in order, each chunk with the name and its offset.
    /// What cannot be sent is told by [`SnapEvent::Failed`].
    Send {
        /// To whom.
        peer: NodeId,
        /// Of which.
        id: SnapshotId,
        /// The first byte.
        from: u64,
        /// One past the last byte.
        to: u64,
    },
    /// Nothing more of it is to be sent to that peer: its reader may be closed.
    Stop {
        /// To whom.
        peer: NodeId,
        /// Of which.
        id: SnapshotId,
    },
    /// What was received of it is not wanted any more.
    Discard {
        /// Of which.
        id: SnapshotId,
    },
}

/// A replica's snapshots: the newest of its own, and the one that comes in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshots {
    /// The newest durable checkpoint: what a leader offers.
    pub(crate) checkpoint: Option<Snapshot>,
    incoming: Option<Incoming>,
    /// What the disk had of an incoming snapshot when the process started.
    staged: Option<(SnapshotId, u64)>,
    /// Handed to the disk, and not yet the state machine's.
    pub(crate) installing: Option<Snapshot>,
    commands: Vec<SnapCmd>,
    /// The streams that the host was told of.
    told: BTreeMap<NodeId, SnapshotId>,
    /// Whether somebody is sent one, as of the last look at all peers.
    pub(crate) streams: bool,
    /// A stream holds as much of the log as there may be.
    pub(crate) log_full: bool,
    /// Up to here no tail is kept for followers that may come back ([`Raft::shorten_log`]).
    let_go: Index,
}

#[derive(Clone, Debug)]
struct Incoming {
    snapshot: Snapshot,
    offset: u64,
    /// The term of the newest offer: one of an earlier term does not replace it.
    term: Term,
}

/// One stream, at its leader.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) snapshot: Snapshot,
    /// The receiver has everything below.
    acknowledged: u64,
    /// Everything below was let go.
    sent: u64,
    /// When `acknowledged` last moved, or the receiver last said that it has everything.
    moved_at: Now,
    /// When bytes were last let go.
    sent_at: Now,
    /// When the receiver first said that it has everything.
    whole_at: Option<Now>,
    /// Given up: offered again with the next sign of life, and holding no log.
    idle: bool,
    /// Streams to the same peer that came before, and were overtaken.
    retries: u32,
}

impl Incoming {
    fn is_whole(&self) -> bool {
        self.offset == self.snapshot.bytes
    }
}

impl Stream {
    pub(crate) fn new(snapshot: Snapshot, now: Now, retries: u32) -> Stream {
        Stream {
            snapshot,
            acknowledged: 0,
            sent: 0,
            moved_at: now,
            sent_at: now,
            whole_at: None,
            idle: false,
            retries,
        }
    }

    /// What left may be lost.
    pub(crate) fn rewind(&mut self) {
        self.sent = self.acknowledged;
    }

    /// Ends it if it made no progress for so long.
    pub(crate) fn give_up(&mut self, now: Now, patience: Now) {
        self.idle |= now >= self.moved_at.saturating_add(patience);
    }

    /// When it is given up unless it moves.
    pub(crate) fn given_up_at(&self, patience: Now) -> Option<Now> {
        (!self.idle).then(|| self.moved_at.saturating_add(patience))
    }

    /// What is sent, unless it is given up.
    pub(crate) fn streaming(&self) -> Option<SnapshotId> {
        (!self.idle).then_some(self.snapshot.id)
    }

    /// For a search that compares states.
    pub(crate) fn standing(&self) -> impl std::hash::Hash {
        (self.snapshot.id, self.acknowledged, self.sent, self.idle)
    }

    /// Whether the receiver, asked at `stamp`, after the last news, has lost what it had.
    fn has_lost(&self, offset: u64, stamp: Now) -> bool {
        offset < self.acknowledged && stamp >= self.moved_at.max(1)
    }

    /// The receiver has `offset` bytes, as an answer to what left at `stamp` (0: unasked). Returns what
    /// may leave now.
    fn wants(&mut self, now: Now, offset: u64, stamp: Now, limits: Limits) -> Option<(u64, u64)> {
        let whole = offset == self.snapshot.bytes;
        if whole && now >= self.whole_at.get_or_insert(now).saturating_add(limits.install_ns) {
            // It has everything and does not come to an end with it: that is no progress.
        } else if offset > self.acknowledged || whole {
            self.acknowledged = offset;
            self.moved_at = now;
        } else if self.has_lost(offset, stamp) {
            self.acknowledged = offset;
            self.sent = offset;
        } else if self.sent > offset && now >= self.sent_at.saturating_add(limits.resend_ns) {
            self.rewind();
        }
        self.sent = self.sent.max(self.acknowledged);
        let to = self.snapshot.bytes.min(self.acknowledged.saturating_add(limits.window_bytes));
        if to <= self.sent {
            return None;
        }
        let from = std::mem::replace(&mut self.sent, to);
        self.sent_at = now;
        Some((from, to))
    }
}

/// The limits of a stream.
#[derive(Clone, Copy)]
struct Limits {
    window_bytes: u64,
    /// What was let go and is not answered for so long is let go again.
    resend_ns: Now,
    /// How long a receiver may take to install what it has.
    install_ns: Now,
}

impl Snapshot {
    /// Whether a correct leader of `term` could offer it.
    pub(crate) fn check(&self, term: Term) -> Result<(), &'static str> {
        let SnapshotId { at, .. } = self.id;
        if at.index == Index(0) || at.term.0 == 0 || at.term > term {
            return Err("a snapshot of nothing, or of a later term than its leader's");
        }
        if self.bytes == 0 || self.conf.0 > at.index {
            return Err("an empty snapshot, or a configuration from after it");
        }
        if Conf::decode(&self.conf.1.encode()).as_ref() != Some(&self.conf.1) {
            return Err("an impossible configuration");
        }
        Ok(())
    }
}

impl Snapshots {
    pub(crate) fn restored(
        checkpoint: Option<Snapshot>,
        staged: Option<(SnapshotId, u64)>,
    ) -> Snapshots {
        Snapshots { checkpoint, staged, ..Snapshots::default() }
    }

    /// The index that the newest durable checkpoint covers.
    pub(crate) fn covered(&self) -> Index {
        self.checkpoint.as_ref().map_or(Index(0), |snapshot| snapshot.id.at.index)
    }

    /// Takes note of an offer: what is wanted of it, or of a better one that is known already.
    fn offered(&mut self, m: InstallSnapshot) -> (SnapshotId, u64) {
        let newer = self.incoming.as_ref().is_none_or(|known| {
            // Of the same name, but of another size, it is another one.
            let at = known.snapshot.id.at;
            known.snapshot != *m.snapshot && (m.term, m.snapshot.id.at) > (known.term, at)
        });
        if newer {
            let id = m.snapshot.id;
            let staged = self.staged.take();
            let bytes = m.snapshot.bytes;
            let here = staged.filter(|(staged, offset)| *staged == id && *offset <= bytes);
            let others = self.incoming.take().map(|known| known.snapshot.id);
            let others = others.into_iter().chain(staged.map(|(id, _)| id));
            let others = others.filter(|other| *other != id || here.is_none());
            let others = others.map(|id| SnapCmd::Discard { id });
            self.commands.extend(others);
            let offset = here.map_or(0, |(_, offset)| offset);
            self.incoming = Some(Incoming { snapshot: *m.snapshot, offset, term: m.term });
        }
        let incoming = self.incoming.as_mut().expect("there is one by now");
        incoming.term = incoming.term.max(m.term);
        (incoming.snapshot.id, incoming.offset)
    }
}

impl Raft {
    /// The index up to which a checkpoint may become durable: applied, and on this replica's disk. One
    /// beyond the durable log could not be continued by it after a crash (R6). 0 while a
    /// snapshot is being installed, and for a replica that joins until what is applied says who is in the group: a
    /// checkpoint must say that (S14).
    pub fn checkpointable(&self) -> Index {
        let applied = self.apply.applied;
        // The log begins after what the state machine has.
        if self.snapshots.installing.is_some() {
            return Index(0);
        }
        if !self.confs.known_at(applied) && !self.config.breaks(Mutant::CheckpointOfNobody) {
            return Index(0);
        }
        match self.config.breaks(Mutant::CheckpointBeyondLog) {
            true => applied,
            false => applied.min(self.log.durable()),
        }
    }

    /// A checkpoint is durable: the log is needed only for what came after it, and for peers. The host
    /// keeps it readable until a newer one is reported and no [`SnapCmd::Send`] names it any more.
    ///
    /// # Panics
    /// If it is beyond [`Raft::checkpointable`], of another log, or impossible: the host has broken R6, and
    /// what is on its disk would not open again.
    pub fn checkpointed(&mut self, _now: Now, snapshot: Snapshot) {
        self.polled = None;
        let at = snapshot.id.at;
        if at.index <= self.snapshots.covered() || at.index < self.log.base().index {
            return;
        }
        assert!(at.index <= self.apply.applied, "a checkpoint of what is not applied");
        let durable = at.index <= self.log.durable();
        assert!(
            durable || self.config.breaks(Mutant::CheckpointBeyondLog),
            "a checkpoint of what is not on the log's disk"
        );
        assert!(self.log.contains(at), "a checkpoint of another log");
        if let Err(why) = snapshot.check(self.hard.term) {
            panic!("a checkpoint that no start would take: {why}");
        }
        self.snapshots.checkpoint = Some(snapshot);
    }

    /// The log is in the way of others, for example of other groups in the same file: of what it has now no tail is
    /// kept for followers that may come back, but for a short one, an eighth of
    /// [`crate::config::Config::log_trailing_bytes`] at most, and if that is all there is none at all. The
    /// rest still goes only behind a checkpoint, and not before live peers have it.
    pub fn shorten_log(&mut self) {
        self.polled = None;
        let short = self.config.log_trailing_bytes / 8;
        self.snapshots.let_go = self.log.index_of_short_end(short);
    }

    /// The chunk that is wanted next: of which snapshot, and its first byte. Other chunks are dropped.
    pub fn incoming(&self) -> Option<(SnapshotId, u64)> {
        self.snapshots.incoming.as_ref().map(|incoming| (incoming.snapshot.id, incoming.offset))
    }

    /// The snapshot that comes in, with its size.
    pub fn incoming_snapshot(&self) -> Option<&Snapshot> {
        self.snapshots.incoming.as_ref().map(|incoming| &incoming.snapshot)
    }

    /// Takes what the host tells of snapshots. What fits nothing that is under way changes nothing.
    pub fn snapshot(&mut self, _now: Now, event: SnapEvent) {
        self.polled = None;
        match event {
            SnapEvent::Failed { peer } => {
                if let Some(stream) = self.stream_mut(peer) {
                    stream.idle = true;
                }
            }
            SnapEvent::Received { id, offset } => self.received(id, offset),
            SnapEvent::Corrupt { id } => {
                if let Some(incoming) = &mut self.snapshots.incoming
                    && incoming.snapshot.id == id
                {
                    incoming.offset = 0;
                }
            }
            SnapEvent::Installed { id } => self.installed(id),
        }
    }

    /// A leader offers a snapshot: the log that this replica lacks is gone there. The term is the
    /// current one. What is here already is not taken again (S3, S4).
    pub(crate) fn on_install_snapshot(
        &mut self,
        now: Now,
        from: NodeId,
        m: InstallSnapshot,
    ) -> Result<(), Reject> {
        self.hear_leader(now, from)?;
        let promised_ns = self.promise_lease(now, from, m.lease_ns);
        let (stamp, at) = (m.stamp, m.snapshot.id.at);
        let two = self.config.breaks(Mutant::TwoInstalls) && !self.log.contains(at);
        let (id, offset) = match self.snapshots.installing.as_ref().filter(|_| !two) {
            // One at a time: the first bytes of another would take the place of what waits on this
            // disk to be installed.
            Some(whole) => (whole.id, whole.bytes),
            None if self.log.contains(at) => {
                self.commit_to(at.index.min(self.log.last().index));
                self.answer_snapshot(from, stamp, promised_ns);
                return Ok(());
            }
            None => self.snapshots.offered(m),
        };
        self.want_snapshot(from, (stamp, promised_ns), id, offset);
        // One that was whole when the process ended.
        if self.snapshots.incoming.as_ref().is_some_and(Incoming::is_whole) {
            self.whole();
        }
        Ok(())
    }

    /// Says from which byte on a snapshot is wanted; stamp and promise as in other answers to a leader.
    pub(crate) fn want_snapshot(
        &mut self,
        to: NodeId,
        (stamp, promised_ns): (Now, Now),
        id: SnapshotId,
        offset: u64,
    ) {
        let term = self.hard.term;
        let reply = InstallSnapshotReply { term, stamp, promised_ns, id, offset };
        self.send(to, Message::InstallSnapshotReply(reply), Index(0));
    }

    /// Says to a leader that its log is here up to what is committed, which it must be, durably.
    fn answer_snapshot(&mut self, to: NodeId, stamp: Now, promised_ns: Now) {
        let index = self.commit;
        if let RoleState::Follower(follower) = &mut self.role {
            follower.verified = follower.verified.max(index);
        }
        let outcome = AppendOutcome::Accepted { matched: index, received: index };
        let (term, commit) = (self.hard.term, index);
        let reply = AppendEntriesReply { term, stamp, promised_ns, commit, outcome };
        self.send(to, Message::AppendEntriesReply(reply), index);
    }

    /// Whether a follower wants more of the snapshot that it is sent than there is (B101).
    pub(crate) fn is_beyond_snapshot(&self, from: NodeId, m: &InstallSnapshotReply) -> bool {
        let RoleState::Leader(leader) = &self.role else { return false };
        let state = leader.peers.get(&from).map(|progress| &progress.state);
        let Some(ProgressState::Snapshot(stream)) = state else { return false };
        m.id == stream.snapshot.id && m.offset > stream.snapshot.bytes
    }

    fn received(&mut self, id: SnapshotId, offset: u64) {
        let Some(incoming) = &mut self.snapshots.incoming else { return };
        let Incoming { snapshot, offset: before, .. } = &*incoming;
        // Less than before: the host has lost some, or what it has is of another one of this name.
        if snapshot.id != id || offset == *before || offset > snapshot.bytes {
            return;
        }
        incoming.offset = offset;
        if incoming.is_whole() {
            return self.whole();
        }
        if let Some(leader) = self.leader().filter(|leader| *leader != self.config.id) {
            self.want_snapshot(leader, (0, 0), id, offset);
        }
    }

    /// All of it is here. The log may have come past it while it was on its way (S23).
    fn whole(&mut self) {
        let Some(Incoming { snapshot, .. }) = self.snapshots.incoming.take() else { return };
        let (id, at) = (snapshot.id, snapshot.id.at);
        let passed = at.index <= self.commit || self.log.contains(at);
        let passed = passed && !self.config.breaks(Mutant::InstallOverApplied);
        let leads = matches!(self.role, RoleState::Leader(_));
        if passed || leads {
            self.snapshots.commands.push(SnapCmd::Discard { id });
            return;
        }
        self.install(snapshot);
    }

    /// Replaces the log, whatever of it is here: what this replica acknowledged is in the snapshot.
    fn install(&mut self, snapshot: Snapshot) {
        let (id, at) = (snapshot.id, snapshot.id.at);
        self.log.install(snapshot.clone());
        self.confs = Confs::new(snapshot.conf.clone(), Vec::new());
        self.conf_news = true;
        self.commit = self.commit.max(at.index);
        self.apply.stop_fetching();
        if let RoleState::Follower(follower) = &mut self.role {
            follower.verified = at.index;
        }
        self.snapshots.installing = Some(snapshot);
        if self.config.breaks(Mutant::ApplyBeforeInstalled) {
            self.installed(id);
        }
    }

    fn installed(&mut self, id: SnapshotId) {
        if self.snapshots.installing.as_ref().is_none_or(|whole| whole.id != id) {
            return;
        }
        self.apply.restart_at(id.at.index);
        self.snapshots.checkpoint = self.snapshots.installing.take();
        // Whoever leads now hears it, whoever sent it (R26).
        if let Some(leader) = self.leader().filter(|leader| *leader != self.config.id) {
            self.answer_snapshot(leader, 0, 0);
        }
    }

    /// A follower says how much of a snapshot it has.
    pub(crate) fn on_install_snapshot_reply(
        &mut self,
        now: Now,
        from: NodeId,
        m: InstallSnapshotReply,
    ) {
        let limits = Limits {
            window_bytes: self.config.snapshot_window_bytes,
            resend_ns: self.config.election_timeout_ns_min,
            install_ns: self.config.snapshot_patience_ns.saturating_mul(INSTALL_PATIENCES),
        };
        let patience = 2 * self.config.heartbeat_ns;
        let lease_ns = self.config.lease_ns;
        let newest = self.snapshots.checkpoint.clone();
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.peers.get_mut(&from) else { return };
        progress.answered(now, m.stamp, m.promised_ns, lease_ns);
        let ProgressState::Snapshot(stream) = &mut progress.state else { return };
        // What it lost may be rotten here: there is a newer one.
        let lost = m.id == stream.snapshot.id && stream.has_lost(m.offset, m.stamp.min(now));
        let newer = newest.as_ref().is_some_and(|newest| newest.id != stream.snapshot.id);
        if stream.idle || lost && newer {
            let Some(newest) = newest else { return };
            **stream = Stream::new(newest, now, stream.retries);
            progress.probe_at = Some(now);
            progress.announced_until = 0;
            return;
        }
        if m.id != stream.snapshot.id {
            return;
        }
        let before = stream.acknowledged;
        let granted = stream.wants(now, m.offset, m.stamp.min(now), limits);
        if stream.acknowledged > before {
            progress.ask_soon(now, patience);
        }
        if let Some((from_byte, to)) = granted {
            let id = m.id;
            let send = SnapCmd::Send { peer: from, id, from: from_byte, to };
            self.snapshots.commands.push(send);
        }
    }

    /// What comes in is of no use any more once the log has what is in it (S23).
    fn discard_what_passed(&mut self) {
        let snapshots = &mut self.snapshots;
        let incoming = snapshots.incoming.as_ref().map(|incoming| incoming.snapshot.id);
        let passed = |id: &SnapshotId| id.at.index <= self.commit;
        if let Some(id) = incoming.filter(passed) {
            snapshots.incoming = None;
            snapshots.commands.push(SnapCmd::Discard { id });
        }
        if let Some((id, _)) = snapshots.staged.take_if(|(id, _)| id.at.index <= self.commit) {
            snapshots.commands.push(SnapCmd::Discard { id });
        }
    }

    /// Says what to send and to discard, and to stop sending what is not to go on.
    pub(crate) fn take_snaps(&mut self, effects: &mut Effects) {
        self.discard_what_passed();
        let Snapshots { streams, told, commands, .. } = &self.snapshots;
        if !streams && told.is_empty() && commands.is_empty() {
            return;
        }
        let mut now = BTreeMap::new();
        if let RoleState::Leader(leader) = &self.role {
            let streams = leader.peers.iter().filter_map(|(peer, p)| Some((*peer, p.streaming()?)));
            now.extend(streams);
        }
        // One that is over must not be sent to any more, whatever was let go in the same call.
        self.snapshots.commands.retain(|command| match command {
            SnapCmd::Send { peer, id, .. } => now.get(peer) == Some(id),
            SnapCmd::Stop { .. } | SnapCmd::Discard { .. } => true,
        });
        for (peer, id) in std::mem::take(&mut self.snapshots.told) {
            if now.get(&peer) != Some(&id) {
                effects.snaps.push(SnapCmd::Stop { peer, id });
            }
        }
        effects.snaps.append(&mut self.snapshots.commands);
        self.snapshots.told = now;
    }

    /// How far the log may go: what a durable checkpoint covers, but for a tail that spares followers
    /// a snapshot, what peers lack that are live or were a short time ago, and what comes after a snapshot that
    /// is on its way (P6, S7). The last three only up to their bounds in bytes.
    pub(crate) fn compact(&mut self, now: Now, effects: &mut Effects) {
        self.stop_missing(now);
        self.snapshots.log_full = false;
        let covered = match self.config.breaks(Mutant::CompactUncovered) {
            true => self.apply.applied,
            false => self.snapshots.covered(),
        };
        if covered <= self.log.base().index {
            return;
        }
        let tail = self.log.index_before_last(self.config.log_trailing_bytes);
        let mut upto = covered.min(tail.max(self.snapshots.let_go));
        if let RoleState::Leader(leader) = &self.role {
            for (peer, progress) in &leader.peers {
                let (need, bytes_max) = match &progress.state {
                    ProgressState::Snapshot(stream) if stream.idle => continue,
                    ProgressState::Snapshot(stream) => {
                        let bytes_max = self.pinned_max(stream);
                        let at = stream.snapshot.id.at.index;
                        if bytes_max == self.config.log_disk_bytes_max {
                            // It is not overtaken any more: writes wait for it instead.
                            self.snapshots.log_full |= self.log.index_within(bytes_max) > at;
                            (at, u64::MAX)
                        } else {
                            (at, bytes_max)
                        }
                    }
                    ProgressState::Probe { .. } | ProgressState::Replicate(_)
                        if self.is_up(*peer) =>
                    {
                        (progress.match_index, self.config.log_bytes_max)
                    }
                    ProgressState::Probe { .. } | ProgressState::Replicate(_)
                        if self.missed_until(*peer).is_some() =>
                    {
                        (progress.match_index, self.missed_bytes())
                    }
                    ProgressState::Probe { .. } | ProgressState::Replicate(_) => continue,
                };
                if !self.config.breaks(Mutant::NoPin) {
                    upto = upto.min(need.max(self.log.index_within(bytes_max)));
                }
            }
        }
        if upto > self.log.base().index {
            effects.compact = Some(self.log.compact(upto));
        }
    }

    /// The most log that a member may hold that is down.
    fn missed_bytes(&self) -> u64 {
        let snapshot = self.snapshots.checkpoint.as_ref().map_or(0, |newest| newest.bytes);
        self.config.missed_bytes_max.min(snapshot)
    }

    /// The most log that a stream may hold: more with each one that the log has overtaken, or steady
    /// writes would overtake them all (S7).
    fn pinned_max(&self, stream: &Stream) -> u64 {
        let least = self.config.log_bytes_max.max(2 * stream.snapshot.bytes.min(1 << 60));
        let doubled =
            least.checked_shl(stream.retries).filter(|more| more >> stream.retries == least);
        doubled.unwrap_or(u64::MAX).min(self.config.log_disk_bytes_max)
    }

    fn stream_mut(&mut self, peer: NodeId) -> Option<&mut Stream> {
        let RoleState::Leader(leader) = &mut self.role else { return None };
        match &mut leader.peers.get_mut(&peer)?.state {
            ProgressState::Snapshot(stream) => Some(stream),
            ProgressState::Probe { .. } | ProgressState::Replicate(_) => None,
        }
    }

    /// For a search that compares states.
    pub(crate) fn snapshots_standing(&self) -> impl std::hash::Hash {
        let incoming = self.incoming();
        let installing = self.snapshots.installing.as_ref().map(|whole| whole.id);
        let Snapshots { staged, let_go, .. } = &self.snapshots;
        (self.snapshots.covered(), incoming, installing, *staged, *let_go)
    }
}
