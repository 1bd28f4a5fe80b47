//! Node-pair liveness: one heartbeat per pair of nodes stands for all groups that they share, so a
//! group without work sends nothing (rules R11 to R17).
//!
//! One [`NodePairs`] per process, pure like the rest of the crate. The host reports links, bytes
//! that arrived, heartbeats, and who leads which group; it gets heartbeats to send and *edges*: what
//! the groups are told, once per change. Nothing here ever changes a term, a vote or a log.
//!
//! - **Up** is two-way: bytes of the peer came, and it echoed a stamp of ours, both within
//!   [`PairsConfig::silence_ns`] (R14). Without the echo the pair is [`PairState::Deaf`]: a leader
//!   cannot count that peer, but a follower that goes on hearing its leader has no reason to
//!   campaign (scenario E21).
//! - **Down** needs silence, or proof that the process is gone: the reconnect was refused, or another
//!   process answers for the node (R17). A broken link alone is no edge: all links may break at once
//!   with every process alive (scenario E36).
//! - **Claims** (R13): a heartbeat says how many groups its sender leads with the receiver as a
//!   member, and a hash of them. When that differs from what the receiver believes over two
//!   heartbeats, it sends its beliefs in pages; the answer names those that nobody claims. The sums
//!   are kept per change, so a heartbeat costs the same with one group and with a thousand.
//! - **A heartbeat vouches for work** (R15): none leaves unless every worker passed its loop since
//!   the one before, and it carries the age of the oldest unfinished sync.

use crate::effects::Reject;
use crate::mutant::Mutant;
use crate::types::{GroupId, NodeId, Now, Term};
use pair::Pair;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

mod pair;

/// Pairs of (group, term) that one heartbeat carries at most, in each of its two lists; the rest
/// follows with the next ones.
pub const PAIRS_PER_HEARTBEAT_MAX: usize = 512;

/// The times that liveness goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairsConfig {
    /// From one heartbeat to the next. Default 100 ms.
    pub heartbeat_ns: Now,
    /// After so long without contact, or without an echo, a peer counts as lost. Default 500 ms.
    pub silence_ns: Now,
    /// The longest election timeout. A disk that has not finished a sync for one of these hands its
    /// leaderships over; for two, it counts as down. Default 1 s.
    pub election_timeout_ns: Now,
    /// The rule that these pairs break.
    #[cfg(feature = "mutants")]
    pub mutant: Option<Mutant>,
}

impl PairsConfig {
    #[cfg(feature = "mutants")]
    fn breaks(&self, rule: Mutant) -> bool {
        self.mutant == Some(rule)
    }

    #[cfg(not(feature = "mutants"))]
    #[inline(always)]
    const fn breaks(&self, _rule: Mutant) -> bool {
        false
    }
}

impl Default for PairsConfig {
    fn default() -> PairsConfig {
        PairsConfig {
            heartbeat_ns: 100_000_000,
            silence_ns: 500_000_000,
            election_timeout_ns: 1_000_000_000,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

/// What one node tells another while both live. Append-only, as all that travels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The sender's process; drawn once per start.
    pub epoch: u64,
    /// The sender's clock when it was made.
    pub stamp: u64,
    /// The newest stamp that the sender heard from the receiver; 0 if none.
    pub echo: u64,
    /// What the sender leads with the receiver as a member.
    pub claims: Claims,
    /// Age of the sender's oldest unfinished sync; 0 if none is under way.
    pub sync_age_ns: u64,
    /// Part of what the sender believes the receiver to lead, when that differs from its claims.
    pub beliefs: Option<BeliefsPage>,
    /// Of the beliefs last received, those the sender does not lead.
    pub disowned: Vec<(GroupId, Term)>,
}

/// A set of (group, term) pairs, as far as two nodes must compare it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Claims {
    /// How many.
    pub count: u32,
    /// Exclusive or of a hash of each.
    pub hash: u64,
}

impl Claims {
    fn add(&mut self, group: GroupId, term: Term) {
        self.count += 1;
        self.hash ^= hash_pair(group, term);
    }

    fn remove(&mut self, group: GroupId, term: Term) {
        self.count -= 1;
        self.hash ^= hash_pair(group, term);
    }
}

/// The same on every node and in every version: the finalizer of SplitMix64 over both numbers.
fn hash_pair(group: GroupId, term: Term) -> u64 {
    let mut z = u64::from(group.0).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ term.0;
    for multiplier in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb] {
        z = (z ^ (z >> 30)).wrapping_mul(multiplier);
    }
    z ^ (z >> 31)
}

/// All that a node believes of another in a range of groups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeliefsPage {
    /// The first group of the range.
    pub from: GroupId,
    /// The last group of the range.
    pub through: GroupId,
    /// The believed leaderships in it, by group; at most [`PAIRS_PER_HEARTBEAT_MAX`].
    pub pairs: Vec<(GroupId, Term)>,
}

impl BeliefsPage {
    fn check(&self) -> Result<(), Reject> {
        let ordered = self.pairs.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let within = self.pairs.iter().all(|(group, _)| (self.from..=self.through).contains(group));
        let bounded = self.pairs.len() <= PAIRS_PER_HEARTBEAT_MAX && self.from <= self.through;
        if ordered && within && bounded {
            return Ok(());
        }
        Err(Reject::Malformed("a page of beliefs out of order or bounds"))
    }
}

/// Who leads a group, as this node's replica has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Led {
    /// This node: it claims the group towards every other member.
    Here {
        /// The term.
        term: Term,
        /// The other members, learners included.
        members: Vec<NodeId>,
    },
    /// Another node, which this one follows.
    There {
        /// The term.
        term: Term,
        /// The leader.
        leader: NodeId,
    },
}

/// What the host has done since it last said so (R15).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Of the workers' counts of loop passes, the smallest.
    pub passes: u64,
    /// Age of the oldest unfinished sync; 0 if none is under way.
    pub sync_age_ns: u64,
}

/// A change that the groups are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairEdge {
    /// The pair is up, or still is over a new link: what was sent before may be lost (R11).
    Up {
        /// The peer's process.
        epoch: u64,
        /// Never used again.
        link: u64,
    },
    /// The peer is heard, but does not hear: leaders cannot count it; its followers need no other
    /// leader.
    Deaf,
    /// The peer is silent, or gone.
    Down {
        /// Its process has ended.
        gone: bool,
    },
    /// Its disk has not finished a sync for two election timeouts: for its followers as `Down`.
    DiskStalled,
    /// The peer does not lead the group in that term (any more), although it is believed to.
    Disowned {
        /// The group.
        group: GroupId,
        /// The term.
        term: Term,
    },
    /// The peer does not know that this node leads the group in that term: it is to be probed.
    Unbelieved {
        /// The group.
        group: GroupId,
        /// The term.
        term: Term,
    },
}

/// A pair at a glance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairState {
    /// Heard and hearing.
    Up {
        /// The peer's process.
        epoch: u64,
        /// The link to it.
        link: u64,
    },
    /// Heard, not hearing.
    Deaf,
    /// Heard and hearing, its disk is stuck.
    DiskStalled,
    /// Silent, gone, or never met.
    Down {
        /// Its process has ended.
        gone: bool,
    },
}

/// What the host owes since the last `poll`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairEffects {
    /// To send. A newer one makes one that still waits for its link worthless.
    pub heartbeats: Vec<(NodeId, Heartbeat)>,
    /// For the groups, in order.
    pub edges: Vec<(NodeId, PairEdge)>,
    /// Whether this node's own disk is so slow that it must hand its leaderships over and not
    /// campaign, each time that changes.
    pub hand_over: Option<bool>,
}

/// One pair, for INFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairStatus {
    /// What the groups were told last.
    pub state: PairState,
    /// Since bytes of the peer came; `None` before the first.
    pub contact_age_ns: Option<Now>,
    /// Since the peer's newest echo was sent as a stamp; `None` before the first.
    pub echo_age_ns: Option<Now>,
    /// The peer's oldest unfinished sync, as it said last.
    pub sync_age_ns: u64,
    /// Groups that this node leads with the peer as a member.
    pub claimed: u32,
    /// Groups that this node believes the peer to lead.
    pub believed: u32,
}

/// This node's pairs with all others.
#[derive(Clone, Debug)]
pub struct NodePairs {
    config: PairsConfig,
    epoch: u64,
    pairs: BTreeMap<NodeId, Pair>,
    led: BTreeMap<GroupId, Led>,
    work: Work,
    hand_over: bool,
    out: PairEffects,
}

impl NodePairs {
    /// `epoch` names this process: drawn at random once per start.
    pub fn new(config: PairsConfig, epoch: u64) -> NodePairs {
        NodePairs {
            config,
            epoch,
            pairs: BTreeMap::new(),
            led: BTreeMap::new(),
            work: Work::default(),
            hand_over: false,
            out: PairEffects::default(),
        }
    }

    fn pair(&mut self, peer: NodeId) -> &mut Pair {
        self.pairs.entry(peer).or_default()
    }

    /// Compares what the pair is with what the groups were told.
    fn report(&mut self, now: Now, peer: NodeId, by_clock: bool) {
        let config = self.config;
        if let Some(edge) = self.pair(peer).update(now, &config, by_clock) {
            self.out.edges.push((peer, edge));
        }
    }

    /// A link stands, after a handshake with the process `epoch`: both ends were heard.
    pub fn link_up(&mut self, now: Now, peer: NodeId, epoch: u64, link: u64) {
        self.pair(peer).link_up(now, epoch, link);
        self.report(now, peer, false);
    }

    /// The link is broken, or an attempt to have one again failed; with `gone` it was refused: no
    /// process listens. A peer that was heard since the last such call is not gone: what lies in a
    /// socket when a process dies is read after its end, so the next refusal decides.
    pub fn link_down(&mut self, now: Now, peer: NodeId, gone: bool) {
        let gone = gone || self.config.breaks(Mutant::GoneWithTheLink);
        self.pair(peer).link_down(now, gone);
        self.report(now, peer, false);
    }

    /// Bytes of the peer arrived; whatever they are.
    pub fn contact(&mut self, now: Now, peer: NodeId) {
        self.pair(peer).contact(now);
    }

    /// A heartbeat arrived. One of a process that another has replaced changes nothing.
    pub fn heard(&mut self, now: Now, peer: NodeId, heartbeat: Heartbeat) -> Result<(), Reject> {
        if let Some(page) = &heartbeat.beliefs {
            page.check()?;
        }
        if heartbeat.disowned.len() > PAIRS_PER_HEARTBEAT_MAX {
            return Err(Reject::Malformed("too many leaderships disowned at once"));
        }
        if !self.pair(peer).knows_epoch(heartbeat.epoch) {
            if !self.pair(peer).is_replaced(&heartbeat) {
                return Ok(());
            }
            // The process that was there is gone; say so before the new one is Up.
            self.pair(peer).replaced_by(heartbeat.epoch);
            self.report(now, peer, false);
        }
        if !self.pair(peer).heard(now, &heartbeat) {
            return Ok(());
        }
        if self.config.breaks(Mutant::ClaimsNotCompared) {
            self.pair(peer).page_from = None;
        }
        self.report(now, peer, false);
        if let Some(page) = heartbeat.beliefs {
            self.answer_beliefs(peer, &page);
        }
        for (group, term) in heartbeat.disowned {
            if self.led.get(&group) == Some(&Led::There { term, leader: peer }) {
                self.set_led(group, None);
                self.out.edges.push((peer, PairEdge::Disowned { group, term }));
            }
        }
        Ok(())
    }

    /// A belief that is not claimed is wrong for ever: nobody leads one term twice. A claim that is
    /// not believed may only be young; a probe too many is harmless.
    fn answer_beliefs(&mut self, peer: NodeId, page: &BeliefsPage) {
        let claims = |led: &Led, term: Term| match led {
            Led::Here { term: own, members } => *own == term && members.contains(&peer),
            Led::There { .. } => false,
        };
        let claimed = |(group, term): &(GroupId, Term)| {
            self.led.get(group).is_some_and(|led| claims(led, *term))
        };
        let disowned = page.pairs.iter().copied().filter(|pair| !claimed(pair)).collect();
        for (group, led) in self.led.range(page.from..=page.through) {
            let Led::Here { term, members } = led else { continue };
            let believed = page.pairs.binary_search(&(*group, *term)).is_ok();
            if members.contains(&peer) && !believed {
                self.out.edges.push((peer, PairEdge::Unbelieved { group: *group, term: *term }));
            }
        }
        self.pair(peer).disowned = disowned;
    }

    /// Who leads a group now, `None` if this node's replica knows of nobody (or is gone). To be
    /// called when that changes.
    pub fn set_led(&mut self, group: GroupId, led: Option<Led>) {
        let before = match led {
            Some(led) => self.led.insert(group, led),
            None => self.led.remove(&group),
        };
        match before {
            Some(Led::Here { term, members }) => {
                members.iter().for_each(|peer| self.pair(*peer).claims.remove(group, term));
            }
            Some(Led::There { term, leader }) => self.pair(leader).beliefs.remove(group, term),
            None => {}
        }
        match self.led.get(&group).cloned() {
            Some(Led::Here { term, members }) => {
                members.iter().for_each(|peer| self.pair(*peer).claims.add(group, term));
            }
            Some(Led::There { term, leader }) => self.pair(leader).beliefs.add(group, term),
            None => {}
        }
    }

    /// Does what is due. The host has handled everything that arrived before: what lies unread in
    /// an inbox is contact (R11).
    pub fn tick(&mut self, now: Now, work: Work) {
        let late = self.deadline().map_or(0, |due| now.saturating_sub(due));
        self.work = work;
        let hand_over = work.sync_age_ns > self.config.election_timeout_ns;
        if hand_over != self.hand_over {
            self.hand_over = hand_over;
            self.out.hand_over = Some(hand_over);
        }
        let peers: Vec<NodeId> = self.pairs.keys().copied().collect();
        for peer in peers {
            if late > self.config.heartbeat_ns {
                // This process stood still: while it did, nobody could be heard (scenario T6).
                self.pair(peer).excuse(now, late);
            }
            self.report(now, peer, true);
            let heartbeat_ns = self.config.heartbeat_ns;
            let always = self.config.breaks(Mutant::HeartbeatWithoutWork);
            let passes = if always { now } else { work.passes };
            if self.pair(peer).is_due(now, heartbeat_ns, passes) {
                let heartbeat = self.heartbeat(now, peer);
                self.out.heartbeats.push((peer, heartbeat));
            }
        }
    }

    fn heartbeat(&mut self, now: Now, peer: NodeId) -> Heartbeat {
        let (epoch, sync_age_ns) = (self.epoch, self.work.sync_age_ns);
        let beliefs = self.pair(peer).page_from.take().map(|from| self.page(peer, from));
        let pair = self.pair(peer);
        Heartbeat {
            epoch,
            stamp: now,
            echo: pair.stamp,
            claims: pair.claims,
            sync_age_ns,
            beliefs,
            disowned: std::mem::take(&mut pair.disowned),
        }
    }

    /// The beliefs about a peer from one group on.
    fn page(&mut self, peer: NodeId, from: GroupId) -> BeliefsPage {
        let mut page = BeliefsPage { from, through: GroupId(u32::MAX), pairs: Vec::new() };
        for (group, led) in self.led.range(from..) {
            let Led::There { term, leader } = led else { continue };
            if *leader != peer {
                continue;
            }
            page.pairs.push((*group, *term));
            if page.pairs.len() == PAIRS_PER_HEARTBEAT_MAX {
                page.through = *group;
                break;
            }
        }
        self.pair(peer).next_page = GroupId(page.through.0.wrapping_add(1));
        page
    }

    /// When `tick` is due next.
    pub fn deadline(&self) -> Option<Now> {
        self.pairs.values().filter_map(|pair| pair.deadline(&self.config)).min()
    }

    /// Moves all that is owed since the last call to `effects`; whether that is anything.
    pub fn poll(&mut self, effects: &mut PairEffects) -> bool {
        effects.heartbeats.clear();
        effects.edges.clear();
        effects.hand_over = None;
        std::mem::swap(effects, &mut self.out);
        *effects != PairEffects::default()
    }

    /// What the groups were told of a peer last.
    pub fn state(&self, peer: NodeId) -> PairState {
        self.pairs.get(&peer).map_or(PairState::Down { gone: false }, |pair| pair.told)
    }

    /// Whether leaderships may be given to a peer: it is up, and its disk keeps pace (R15).
    pub fn may_lead(&self, peer: NodeId) -> bool {
        let keeps_pace = |pair: &Pair| pair.sync_age_ns <= self.config.election_timeout_ns;
        matches!(self.state(peer), PairState::Up { .. })
            && self.pairs.get(&peer).is_some_and(keeps_pace)
    }

    /// Whether this node's own disk forbids it to lead (R15).
    pub fn must_hand_over(&self) -> bool {
        self.hand_over
    }

    /// A hash of all that decides what these pairs do next, by which a search knows where it was
    /// already. Times stand in it as ages, in quarters of a heartbeat; links without their names.
    pub fn digest(&self, now: Now) -> u64 {
        let unit = self.config.heartbeat_ns.div_ceil(4);
        let mut hasher = DefaultHasher::new();
        (self.epoch, self.hand_over, self.work.sync_age_ns / unit).hash(&mut hasher);
        for (group, led) in &self.led {
            (group, led).hash(&mut hasher);
        }
        for (peer, pair) in &self.pairs {
            peer.hash(&mut hasher);
            pair.digest(now, unit, &mut hasher);
        }
        hasher.finish()
    }

    /// Every pair, for INFO.
    pub fn status(&self, now: Now) -> BTreeMap<NodeId, PairStatus> {
        self.pairs.iter().map(|(peer, pair)| (*peer, pair.status(now))).collect()
    }
}

#[cfg(test)]
mod tests;
