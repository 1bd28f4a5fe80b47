//! What a leader knows of one follower, and what it may send it next.

use crate::config::Sending;
use crate::log::{Log, take_fitting};
use crate::reads::Confirmed;
use crate::snapshot::{Snapshot, SnapshotId, Stream};
use crate::types::{Entries, Entry, EntryId, FetchId, Index, Now};
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

/// Entries that ride on a probe: enough for a small write to a follower that turns out to match,
/// little enough to be sent again every heartbeat to one that does not answer.
pub(crate) const PROBE_BYTES_MAX: u64 = 16 << 10;

/// Probes double their distance up to this many times.
const BACKOFF_MAX: u32 = 5;

/// One follower, seen from the leader.
///
/// Invariants: `match_index` never falls; `next_index` > `match_index`.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// Known to agree, and to be durable there.
    pub(crate) match_index: Index,
    /// The next entry to send.
    pub(crate) next_index: Index,
    pub(crate) state: ProgressState,
    /// When something must be sent even if there is nothing new; `None` while the peer is known to
    /// have everything (R12).
    pub(crate) probe_at: Option<Now>,
    /// Probes since the last progress: each waits twice as long as the one before.
    backoff: u32,
    /// The newest commit index that it said it has.
    commit_known: Index,
    /// It has everything, or got what there was when a round began within a short time (thesis 4.2.1).
    caught_up: bool,
    round_end: Index,
    round_began: Now,
    /// What it has confirmed.
    pub(crate) confirmed: Confirmed,
    /// The host was told that it may pull, and need not be told again before this.
    pub(crate) announced_until: Now,
    /// Snapshots to it that began since it last had everything.
    pub(crate) overtaken: u32,
    /// Older entries on their way from the host's log, or here and not sent yet.
    pub(crate) fetch: PeerFetch,
}

/// How entries are sent.
#[derive(Clone, Debug)]
pub(crate) enum ProgressState {
    /// It is not known where the logs agree: one message per answer or heartbeat.
    Probe {
        /// The message is out.
        sent: bool,
    },
    /// The logs agree up to `next_index` - 1 as far as known: entries are pipelined.
    Replicate(Window),
    /// What it needs next is not in the log any more: it gets a snapshot (Raft section 7).
    Snapshot(Box<Stream>),
}

/// Entries sent and not yet acknowledged, by message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    /// Last index and frame bytes of each message.
    messages: VecDeque<(Index, u64)>,
    bytes: u64,
}

/// Entries that left the leader's cache before this follower had them. At most one fetch is open.
#[derive(Clone, Debug, Default)]
pub(crate) enum PeerFetch {
    /// Nothing is asked for.
    #[default]
    Idle,
    /// Asked for. The answer counts only if it carries this name.
    Open(FetchId),
    /// Contiguous from `next_index`.
    Here(VecDeque<Entry>),
    /// The host had nothing; do not ask again before this.
    Paused(Now),
}

/// The limits of a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowMax {
    pub(crate) messages: usize,
    pub(crate) bytes: u64,
}

impl Window {
    /// Whether one more message with entries may leave. A window with a byte left takes a message,
    /// cut to what is left; an empty one takes any single entry.
    pub(crate) fn is_open(&self, max: WindowMax) -> bool {
        self.messages.len() < max.messages && self.bytes < max.bytes
    }

    fn push(&mut self, last: Index, bytes: u64) {
        self.messages.push_back((last, bytes));
        self.bytes += bytes;
    }

    fn acknowledge(&mut self, matched: Index) {
        while let Some((last, bytes)) = self.messages.front()
            && *last <= matched
        {
            self.bytes -= bytes;
            self.messages.pop_front();
        }
    }
}

/// What may be sent to a follower now.
#[derive(Debug)]
pub(crate) enum Next {
    /// These entries, after `next_index` - 1. None: a probe or a heartbeat.
    Send(Entries),
    /// A snapshot.
    Offer(Box<Snapshot>),
    /// The next entry, of so many bytes, does not fit the room given.
    NeedsRoom(u64),
    /// Nothing.
    Wait,
}

impl Progress {
    pub(crate) fn new(next_index: Index, now: Now) -> Progress {
        Progress {
            match_index: Index(0),
            next_index,
            state: ProgressState::Probe { sent: false },
            probe_at: Some(now),
            backoff: 0,
            commit_known: Index(0),
            caught_up: false,
            round_end: next_index.prev(),
            round_began: now,
            confirmed: Confirmed::default(),
            announced_until: 0,
            overtaken: 0,
            fetch: PeerFetch::Idle,
        }
    }

    /// All that was sent is taken as lost (R11): credits come back, and the first thing said on the
    /// new link finds out what arrived.
    pub(crate) fn reset(&mut self, now: Now) {
        match &mut self.state {
            ProgressState::Snapshot(stream) => stream.rewind(),
            // Nothing is known of it in this term: to begin at the first entry would bring it all of the
            // log again, or a snapshot where the first entry is gone.
            ProgressState::Probe { .. } if self.match_index == Index(0) => {
                self.probe(self.next_index);
            }
            ProgressState::Probe { .. } | ProgressState::Replicate(_) => {
                self.probe(self.match_index.next());
            }
        }
        self.commit_known = Index(0);
        self.caught_up = false;
        self.backoff = 0;
        self.probe_at = Some(now);
        self.announced_until = 0;
        self.confirmed.sent = None;
    }

    /// It answered, in this term, what left at `stamp`. That is echoed by the peer: one from the
    /// future must not stretch its credit.
    pub(crate) fn answered(&mut self, now: Now, stamp: Now, promised_ns: Now, lease_ns: Now) {
        let stamp = stamp.min(now);
        if lease_ns > 0 && promised_ns >= lease_ns {
            self.confirmed.lease_stamp = self.confirmed.lease_stamp.max(stamp);
        }
    }

    /// It acknowledged something; `last` is the leader's. Ends the round of catching up that this
    /// completes; one that took longer than `limit` means that it is still far behind.
    pub(crate) fn finish_round(&mut self, now: Now, last: Index, limit: Now) {
        if self.match_index >= self.round_end {
            if self.match_index == last {
                self.overtaken = 0;
            }
            self.caught_up = self.match_index == last || now - self.round_began < limit;
            self.round_end = last;
            self.round_began = now;
        }
    }

    /// Whether it could take part in a commit without making it wait long.
    pub(crate) fn has_caught_up(&self) -> bool {
        self.caught_up
    }

    /// It said that it has committed up to `commit`.
    pub(crate) fn commit_known(&mut self, commit: Index) {
        if commit > self.commit_known {
            self.commit_known = commit;
            self.backoff = 0;
        }
    }

    /// It makes progress: if that stops, it is asked without the patience that silence has earned.
    pub(crate) fn ask_soon(&mut self, now: Now, patience: Now) {
        self.backoff = 0;
        self.probe_at = self.probe_at.map(|at| at.min(now + patience));
    }

    /// Whether it has said, on this link and in this term, that it has all entries and knows them
    /// committed: only then nothing need be sent (R12).
    pub(crate) fn is_quiet(&self, last: Index, commit: Index) -> bool {
        self.match_index == last && self.commit_known == commit
    }

    /// Until it is quiet, it is asked `patience` after the last thing sent, backing off.
    pub(crate) fn plan_probe(&mut self, now: Now, quiet: bool, patience: Now) {
        match self.probe_at {
            // One that is due already is somebody's question.
            Some(at) if quiet && at > now => self.probe_at = None,
            None if !quiet => self.probe_at = Some(now + patience),
            Some(_) | None => {}
        }
    }

    fn probe(&mut self, next_index: Index) {
        self.next_index = next_index.max(self.match_index.next());
        self.state = ProgressState::Probe { sent: false };
        self.fetch = PeerFetch::Idle;
    }

    /// Gives up a stream that made no progress for so long.
    pub(crate) fn give_up_stream(&mut self, now: Now, patience: Now) {
        if let ProgressState::Snapshot(stream) = &mut self.state {
            stream.give_up(now, patience);
        }
    }

    /// Starts a stream of the newest snapshot if its next entry is gone. Whether it is sent one.
    pub(crate) fn settle_stream(
        &mut self,
        now: Now,
        base: Index,
        newest: Option<&Snapshot>,
    ) -> bool {
        if matches!(self.state, ProgressState::Snapshot(_)) {
            return self.streaming().is_some();
        }
        let Some(newest) = newest.filter(|_| self.next_index <= base) else { return false };
        let retries = self.overtaken;
        self.overtaken += 1;
        self.stream(now, Stream::new(newest.clone(), now, retries));
        true
    }

    /// It gets a snapshot from now on, which is offered at once.
    fn stream(&mut self, now: Now, stream: Stream) {
        self.state = ProgressState::Snapshot(Box::new(stream));
        self.fetch = PeerFetch::Idle;
        self.probe_at = Some(now);
        self.announced_until = 0;
    }

    /// The snapshot that it gets.
    pub(crate) fn streaming(&self) -> Option<SnapshotId> {
        match &self.state {
            ProgressState::Snapshot(stream) => stream.streaming(),
            ProgressState::Probe { .. } | ProgressState::Replicate(_) => None,
        }
    }

    /// When the stream to it is given up unless it moves.
    pub(crate) fn given_up_at(&self, patience: Now) -> Option<Now> {
        match &self.state {
            ProgressState::Snapshot(stream) => stream.given_up_at(patience),
            ProgressState::Probe { .. } | ProgressState::Replicate(_) => None,
        }
    }

    /// What to send now within `room` bytes of frames.
    pub(crate) fn next(&self, now: Now, log: &Log, room: u64, max: WindowMax) -> Next {
        let due = self.is_due(now);
        match &self.state {
            ProgressState::Probe { sent } if *sent && !due => Next::Wait,
            ProgressState::Probe { .. } => {
                Next::Send(log.slice(self.next_index, room.min(PROBE_BYTES_MAX), false))
            }
            ProgressState::Replicate(window) => match self.next_entry_bytes(log, window, max) {
                Some(bytes) if bytes <= room => {
                    let room = room.min(max.bytes.saturating_sub(window.bytes));
                    Next::Send(self.entries(log, room))
                }
                // A heartbeat does not wait for room.
                _ if due => Next::Send(Entries::new()),
                Some(bytes) => Next::NeedsRoom(bytes),
                None => Next::Wait,
            },
            ProgressState::Snapshot(stream) if due => {
                Next::Offer(Box::new(stream.snapshot.clone()))
            }
            ProgressState::Snapshot(_) => Next::Wait,
        }
    }

    /// Whether `next`, given all the room there is, would send something.
    pub(crate) fn is_ready(&self, now: Now, log: &Log, max: WindowMax) -> bool {
        self.is_due(now)
            || match &self.state {
                ProgressState::Probe { sent } => !sent,
                ProgressState::Replicate(window) => {
                    self.next_entry_bytes(log, window, max).is_some()
                }
                ProgressState::Snapshot(_) => false,
            }
    }

    fn is_due(&self, now: Now) -> bool {
        self.probe_at.is_some_and(|at| at <= now)
    }

    /// The size of the next entry, if the window has place for it and it is in memory.
    fn next_entry_bytes(&self, log: &Log, window: &Window, max: WindowMax) -> Option<u64> {
        if !window.is_open(max) {
            return None;
        }
        let fetched = match &self.fetch {
            PeerFetch::Here(entries) => entries.front(),
            PeerFetch::Idle | PeerFetch::Open(_) | PeerFetch::Paused(_) => None,
        };
        let bytes = fetched.or_else(|| log.cached(self.next_index))?.frame.len() as u64;
        // An entry over the whole window goes alone, once nothing else is in it (R14, R24).
        (window.bytes + bytes <= max.bytes || window.bytes == 0).then_some(bytes)
    }

    fn entries(&self, log: &Log, bytes: u64) -> Entries {
        match &self.fetch {
            PeerFetch::Here(entries) => take_fitting(entries.iter(), bytes, true),
            PeerFetch::Idle | PeerFetch::Open(_) | PeerFetch::Paused(_) => {
                log.slice(self.next_index, bytes, true)
            }
        }
    }

    /// Whether the next entry must be read from the host's log, and nobody has asked for it.
    pub(crate) fn wants_fetch(&self, now: Now, log: &Log, max: WindowMax) -> bool {
        let asked = match &self.fetch {
            PeerFetch::Idle => false,
            PeerFetch::Paused(until) => now < *until,
            PeerFetch::Open(_) | PeerFetch::Here(_) => true,
        };
        match &self.state {
            ProgressState::Probe { .. } | ProgressState::Snapshot(_) => false,
            ProgressState::Replicate(window) => {
                !asked && self.next_index < log.cache_first() && window.is_open(max)
            }
        }
    }

    /// A message with these entries leaves now.
    pub(crate) fn sent(&mut self, now: Now, entries: &[Entry], patience: Now) {
        if self.is_due(now) {
            self.backoff = (self.backoff + 1).min(BACKOFF_MAX);
        }
        self.probe_at = Some(now + (patience << self.backoff.saturating_sub(1)));
        match &mut self.state {
            // A probe does not move `next_index`: the answer does.
            ProgressState::Probe { sent } => *sent = true,
            ProgressState::Snapshot(_) => {}
            ProgressState::Replicate(window) => {
                let Some(last) = entries.last() else { return };
                window.push(last.id.index, entries.iter().map(|e| e.frame.len() as u64).sum());
                self.next_index = last.id.index.next();
                if let PeerFetch::Here(fetched) = &mut self.fetch {
                    fetched.drain(..entries.len());
                    if fetched.is_empty() {
                        self.fetch = PeerFetch::Idle;
                    }
                }
            }
        }
    }

    /// The follower agrees up to `received`, durably up to `matched`; `base` is where the leader's log
    /// begins. Whether `match_index` rose.
    pub(crate) fn accepted(&mut self, matched: Index, received: Index, base: Index) -> bool {
        let rose = matched > self.match_index;
        if rose {
            self.backoff = 0;
        }
        self.match_index = self.match_index.max(matched);
        match &mut self.state {
            // Something late, from before it needed one. What is done, and was overtaken, gives way
            // to the next.
            ProgressState::Snapshot(stream)
                if self.match_index < base.min(stream.snapshot.id.at.index) =>
            {
                self.next_index = self.next_index.max(self.match_index.next());
            }
            ProgressState::Probe { .. } | ProgressState::Snapshot(_) => {
                self.next_index = received.max(self.match_index).next();
                self.state = ProgressState::Replicate(Window::default());
            }
            ProgressState::Replicate(window) => {
                window.acknowledge(self.match_index);
                let next_index = self.next_index.max(received.max(self.match_index).next());
                if next_index > self.next_index {
                    self.next_index = next_index;
                    self.fetch = PeerFetch::Idle;
                }
            }
        }
        rose
    }

    /// The follower refused `prev`; `agree` is where this log and its hint can agree. A refusal that
    /// is older than what was acknowledged, or than the probe that is out, is ignored (R8, R10).
    pub(crate) fn rejected(&mut self, prev: Index, agree: EntryId) {
        let stale = match &self.state {
            ProgressState::Probe { .. } => prev != self.next_index.prev(),
            ProgressState::Replicate(_) => prev >= self.next_index,
            ProgressState::Snapshot(_) => true,
        };
        if !stale && prev > self.match_index {
            self.probe(agree.index.min(prev.prev()).next());
        }
    }

    /// How it is sent to, for a search that compares states.
    pub(crate) fn standing(&self, hasher: &mut impl Hasher) {
        match &self.state {
            ProgressState::Probe { sent } => (0, *sent).hash(hasher),
            ProgressState::Replicate(window) => (1, window.messages.len()).hash(hasher),
            ProgressState::Snapshot(stream) => stream.standing().hash(hasher),
        }
    }

    /// How it is sent to, for people.
    pub(crate) fn sending(&self) -> Sending {
        match &self.state {
            ProgressState::Probe { .. } => Sending::Probe,
            ProgressState::Replicate(_) => Sending::Replicate,
            ProgressState::Snapshot(_) => Sending::Snapshot,
        }
    }

    /// Messages with entries on their way, and their bytes.
    pub(crate) fn inflight(&self) -> (usize, u64) {
        match &self.state {
            ProgressState::Replicate(window) => (window.messages.len(), window.bytes),
            ProgressState::Probe { .. } | ProgressState::Snapshot(_) => (0, 0),
        }
    }

    /// Bytes held for this follower alone.
    pub(crate) fn fetched_bytes(&self) -> u64 {
        match &self.fetch {
            PeerFetch::Here(entries) => entries.iter().map(|e| e.frame.len() as u64).sum(),
            PeerFetch::Idle | PeerFetch::Open(_) | PeerFetch::Paused(_) => 0,
        }
    }
}
