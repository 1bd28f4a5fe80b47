//! This project's Raft and the `raft` crate under one schedule of proposals, cut links, crashes and
//! campaigns: after every step both must have the same leaders, the same logs and the same committed
//! commands, and the same replicas must be able to win.
//!
//! The two send different messages at different times, so a schedule cannot name a message. It names
//! what both can be held to: which links are open while a step is carried out, and whose disk
//! forgets. Within a step everything happens that can happen, and timeouts come from outside: a
//! replica campaigns when the schedule says so and at no other time.

mod ours;
mod schedule;
mod theirs;

pub use ours::Ours;
pub use schedule::{Link, Schedule, Step};
pub use theirs::Theirs;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;

/// Heartbeat intervals in one rest: twice the longest time after which a leader without a majority
/// must have stepped down, in either implementation.
const HEARTBEATS_IN_A_REST: usize = 25;

/// After so many of them a node that is not heard counts as lost, and claims are compared again.
const HEARTBEATS_OF_SILENCE: usize = 5;

/// What both implementations have in common of an entry: its term and its command, empty for the
/// entry with which a leader begins.
pub type Logged = (u64, Vec<u8>);

/// A replica under test. Its links, the time and its disk's failures are given from outside.
pub trait Replica {
    /// What it says to another.
    type Message;
    /// What it finds again after a crash.
    type Disk: Clone + Default;

    /// Starts from a disk, as one of the voters `1..=voters`.
    fn open(id: u64, voters: u64, disk: Self::Disk) -> Self;
    /// Takes a message.
    fn step(&mut self, from: u64, message: Self::Message);
    /// Carries out all that is owed, and returns what is to be sent. `committed` is called with the
    /// index, term and command of each entry that is committed here and was not before.
    fn turn(&mut self, committed: &mut dyn FnMut(u64, Logged)) -> Vec<(u64, Self::Message)>;
    /// Lets one heartbeat interval pass without an election timeout.
    fn heartbeat(&mut self);
    /// Lets the election timer run out.
    fn campaign(&mut self);
    /// Proposes a command; whether it was taken.
    fn propose(&mut self, command: Vec<u8>) -> bool;
    /// From now on nothing reaches the disk, and nothing is said that needs it.
    fn lose_writes(&mut self);
    /// A new link to a peer stands; what was on its way on the old one is lost.
    fn new_link(&mut self, peer: u64);
    /// Nothing was heard of a peer's node for an election timeout.
    fn lost(&mut self, peer: u64);
    /// A peer's node is heard; it may have been lost before.
    fn heard(&mut self, peer: u64);
    /// Whom it follows still, if its node was not lost.
    fn follows(&self) -> Option<u64>;
    /// Whom it follows leads nothing any more, and its node said so.
    fn disowned(&mut self);
    /// Whether it leads.
    fn leads(&self) -> bool;
    /// Its disk, as a power loss leaves it.
    fn disk(&self) -> Self::Disk;
    /// The term, and the log, on a disk.
    fn read(disk: &Self::Disk) -> (u64, Vec<Logged>);
}

/// What is compared after each step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Replicas that lead.
    pub leaders: Vec<u64>,
    /// Term and log on each disk.
    pub disks: Vec<(u64, Vec<Logged>)>,
    /// Everything that was ever committed.
    pub committed: Vec<Logged>,
    /// For each proposal of the step, whether it was taken.
    pub taken: Vec<bool>,
    /// Replicas that would win, if all that are up started anew from their disks and this one
    /// campaigned.
    pub could_win: Vec<u64>,
}

/// A group of one implementation.
pub struct World<R: Replica> {
    voters: u64,
    up: BTreeMap<u64, R>,
    down: BTreeMap<u64, R::Disk>,
    cut: BTreeSet<Link>,
    committed: Vec<Logged>,
}

impl<R: Replica> World<R> {
    /// A new group of so many voters.
    pub fn new(voters: u64) -> World<R> {
        let disks = (1..=voters).map(|id| (id, R::Disk::default()));
        World::from_disks(voters, disks, BTreeSet::new())
    }

    fn from_disks(
        voters: u64,
        disks: impl Iterator<Item = (u64, R::Disk)>,
        cut: BTreeSet<Link>,
    ) -> World<R> {
        let up = disks.map(|(id, disk)| (id, R::open(id, voters, disk))).collect();
        World { voters, up, down: BTreeMap::new(), cut, committed: Vec::new() }
    }

    /// Carries out one step and shows what came of it.
    ///
    /// # Panics
    /// If two replicas commit different entries at one index.
    pub fn carry_out(&mut self, step: &Step) -> View {
        let mut taken = Vec::new();
        match step {
            Step::Propose { commands, loses } => taken = self.propose(commands, *loses),
            Step::Campaign { at, still } => {
                self.rest(*still);
                self.campaign(*at);
            }
            Step::Cut(links) => self.cut.extend(links),
            Step::Heal => self.heal(),
            Step::Crash(id) => self.crash(*id),
            Step::Restart(id) => self.restart(*id),
        }
        self.view(taken)
    }

    fn propose(&mut self, commands: &[String], loses: Option<u64>) -> Vec<bool> {
        if let Some(replica) = loses.and_then(|id| self.up.get_mut(&id)) {
            replica.lose_writes();
        }
        let mut taken = Vec::new();
        for (id, replica) in &mut self.up {
            for command in commands {
                // The same command at two replicas would hide that they differ.
                taken.push(replica.propose(format!("{command}-n{id}").into_bytes()));
            }
        }
        self.settle();
        if let Some(id) = loses {
            self.crash(id);
        }
        taken
    }

    /// Whoever hears a leader has no election timeout. (If it campaigned all the same, ours would
    /// be called back by the leader, which answers a request for votes with an append, or not, as
    /// messages happen to be ordered. Theirs does not answer.)
    fn campaign(&mut self, at: u64) {
        let leads =
            |(id, replica): (&u64, &R)| *id != at && replica.leads() && self.is_open(*id, at);
        if self.up.iter().any(leads) {
            return;
        }
        // Refusals can have several terms. Theirs takes the newest, ours the first: the others answer a
        // round that is over by then, and are answered anew in the next.
        let mut term = None;
        for _ in 0..self.voters {
            let Some(replica) = self.up.get_mut(&at) else { return };
            replica.campaign();
            self.settle();
            let Some(replica) = self.up.get(&at) else { return };
            let now = R::read(&replica.disk()).0;
            if replica.leads() || term.replace(now) == Some(now) {
                return;
            }
        }
    }

    /// Time passes for everybody but `still`: leaders without a majority step down, followers
    /// without a leader forget it, and whoever is behind and reachable catches up.
    fn rest(&mut self, still: Option<u64>) {
        for round in 0..HEARTBEATS_IN_A_REST {
            if round % HEARTBEATS_OF_SILENCE == 0 {
                self.notice(still, round > 0);
            }
            for (id, replica) in &mut self.up {
                if Some(*id) != still {
                    replica.heartbeat();
                }
            }
            self.settle();
        }
    }

    /// Everybody but `still` learns who is heard; after a silence also who is not, and who leads
    /// nothing any more.
    fn notice(&mut self, still: Option<u64>, silence: bool) {
        let leaders: Vec<u64> =
            self.up.iter().filter(|(_, r)| r.leads()).map(|(id, _)| *id).collect();
        for id in self.up.keys().copied().filter(|id| Some(*id) != still).collect::<Vec<_>>() {
            let heard = |peer: u64| {
                self.up.contains_key(&peer) && Some(peer) != still && self.is_open(id, peer)
            };
            let (here, silent): (Vec<u64>, Vec<u64>) =
                (1..=self.voters).filter(|peer| *peer != id).partition(|peer| heard(*peer));
            let Some(replica) = self.up.get_mut(&id) else { continue };
            here.into_iter().for_each(|peer| replica.heard(peer));
            if !silence {
                continue;
            }
            silent.into_iter().for_each(|peer| replica.lost(peer));
            if replica.follows().is_some_and(|leader| !leaders.contains(&leader)) {
                replica.disowned();
            }
        }
    }

    fn heal(&mut self) {
        for link in std::mem::take(&mut self.cut) {
            self.connect(link);
        }
        self.rest(None);
    }

    fn connect(&mut self, (a, b): Link) {
        for (id, peer) in [(a, b), (b, a)] {
            if let Some(replica) = self.up.get_mut(&id) {
                replica.new_link(peer);
            }
        }
    }

    fn crash(&mut self, id: u64) {
        if let Some(replica) = self.up.remove(&id) {
            self.down.insert(id, replica.disk());
        }
    }

    fn restart(&mut self, id: u64) {
        let Some(disk) = self.down.remove(&id) else { return };
        self.up.insert(id, R::open(id, self.voters, disk));
        for peer in 1..=self.voters {
            if peer != id && self.is_open(id, peer) {
                self.connect((id, peer));
            }
        }
        self.rest(None);
    }

    fn is_open(&self, a: u64, b: u64) -> bool {
        !self.cut.contains(&(a.min(b), a.max(b)))
    }

    /// Lets everything happen that can happen without time passing.
    fn settle(&mut self) {
        let mut network = VecDeque::new();
        loop {
            let committed = &mut self.committed;
            let mut commit = |index: u64, entry: Logged| {
                let at = index as usize - 1;
                match committed.get(at) {
                    Some(before) => assert_eq!(before, &entry, "two commits at {index}"),
                    None if at == committed.len() => committed.push(entry),
                    None => panic!("{index} is committed before what precedes it"),
                }
            };
            for (id, replica) in &mut self.up {
                let sent = replica.turn(&mut commit);
                network.extend(sent.into_iter().map(|(to, message)| (*id, to, message)));
            }
            let Some((from, to, message)) = network.pop_front() else { return };
            let open = self.is_open(from, to);
            if let Some(replica) = self.up.get_mut(&to).filter(|_| open) {
                replica.step(from, message);
            }
        }
    }

    fn view(&self, taken: Vec<bool>) -> View {
        let disk = |id: u64| match self.up.get(&id) {
            Some(replica) => R::read(&replica.disk()),
            None => R::read(&self.down[&id]),
        };
        View {
            leaders: self.up.iter().filter(|(_, r)| r.leads()).map(|(id, _)| *id).collect(),
            disks: (1..=self.voters).map(disk).collect(),
            committed: self.committed.clone(),
            taken,
            could_win: self.up.keys().copied().filter(|id| self.could_win(*id)).collect(),
        }
    }

    fn could_win(&self, id: u64) -> bool {
        let disks = self.up.iter().map(|(id, replica)| (*id, replica.disk()));
        let mut anew: World<R> = World::from_disks(self.voters, disks, self.cut.clone());
        anew.campaign(id);
        anew.up[&id].leads()
    }
}

/// Both implementations through one schedule. What the run covered, or the first step after which
/// they differ and how.
pub fn compare(schedule: &Schedule) -> Result<Covered, String> {
    compare_under(schedule, schedule)
}

/// The first schedule with ours, the second with theirs: only if both say the same, a difference
/// between the implementations is what is found.
pub fn compare_under(schedule: &Schedule, their_schedule: &Schedule) -> Result<Covered, String> {
    let mut ours: World<Ours> = World::new(schedule.voters);
    let mut theirs: World<Theirs> = World::new(their_schedule.voters);
    let mut covered = Covered::default();
    let mut disks = Vec::new();
    for (number, step) in schedule.steps.iter().enumerate() {
        let (a, b) = (ours.carry_out(step), theirs.carry_out(&their_schedule.steps[number]));
        if a != b {
            return Err(difference(schedule, number, &a, &b));
        }
        covered.note(step, &disks, &a);
        disks = a.disks;
    }
    Ok(covered)
}

fn difference(schedule: &Schedule, number: usize, ours: &View, theirs: &View) -> String {
    let steps: Vec<String> = schedule.steps[..=number].iter().map(|s| format!("{s:?}")).collect();
    let mut text = format!("{} voters, step {number}:\n{}\n", schedule.voters, steps.join("\n"));
    let mut compare = |what: &str, a: &dyn Debug, b: &dyn Debug| {
        let (a, b) = (format!("{a:?}"), format!("{b:?}"));
        if a != b {
            text += &format!("{what}\n  ours   {a}\n  theirs {b}\n");
        }
    };
    compare("leaders", &ours.leaders, &theirs.leaders);
    compare("taken", &ours.taken, &theirs.taken);
    compare("could win", &ours.could_win, &theirs.could_win);
    compare("committed", &readable(&ours.committed), &readable(&theirs.committed));
    for (id, (a, b)) in ours.disks.iter().zip(&theirs.disks).enumerate() {
        let name = format!("term and disk of n{}", id + 1);
        compare(&name, &(a.0, readable(&a.1)), &(b.0, readable(&b.1)));
    }
    text
}

fn readable(log: &[Logged]) -> Vec<String> {
    log.iter().map(|(term, command)| format!("{}@{term}", command.escape_ascii())).collect()
}

/// What schedules have reached: a comparison of nothing would always succeed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Covered {
    /// Steps compared.
    pub steps: u64,
    /// Campaigns after which the campaigner led, and after which it did not.
    pub won: u64,
    /// See `won`.
    pub lost: u64,
    /// Entries committed.
    pub committed: u64,
    /// Steps after which two replicas led, in different terms.
    pub two_leaders: u64,
    /// Steps after which some replica that was up could not have won.
    pub barred: u64,
    /// Entries that were on a disk and then were not: overwritten by a new leader's.
    pub undone: u64,
}

impl Covered {
    fn note(&mut self, step: &Step, before: &[(u64, Vec<Logged>)], view: &View) {
        self.steps += 1;
        if let Step::Campaign { at, .. } = step {
            let won = view.leaders.contains(at);
            *if won { &mut self.won } else { &mut self.lost } += 1;
        }
        self.committed = view.committed.len() as u64;
        self.two_leaders += u64::from(view.leaders.len() > 1);
        self.barred += u64::from(view.could_win.len() < view.disks.len());
        for ((_, before), (_, log)) in before.iter().zip(&view.disks) {
            self.undone += before.iter().zip(log).filter(|(a, b)| a != b).count() as u64;
            self.undone += before.len().saturating_sub(log.len()) as u64;
        }
    }

    /// Adds what another schedule has reached.
    pub fn add(&mut self, other: &Covered) {
        self.steps += other.steps;
        self.won += other.won;
        self.lost += other.lost;
        self.committed += other.committed;
        self.two_leaders += other.two_leaders;
        self.barred += other.barred;
        self.undone += other.undone;
    }
}
