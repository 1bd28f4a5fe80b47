//! Three replicas of one Raft group in one loop, without a network, a disk or a clock: what a host
//! does for `raft-core`, and nothing else. Run it with `cargo run -p examples --example raft_by_hand`.
//!
//! A host's turn is always the same: pass inputs in, `poll`, then carry out what is owed, in its
//! order: the write first, then what may be sent once it is durable, then what is committed.
//!
//! What it prints reads from top to bottom: each message as it arrives, each change of role
//! (`n1@2` is n1 in term 2), each command as it is applied (`5@2` is index 5 of term 2). Watch for
//!
//! 1. **the election**: a pre-vote that changes nothing, then votes; the winner's first entry is
//!    empty, and commits whatever came before it;
//! 2. **the replication**: an append to each follower, an answer from each once its disk has it; the
//!    followers learn of the commit with the next append or heartbeat;
//! 3. **the failover**: the leader is gone, nobody hears it, one follower's timer runs out first.
//!    What was committed is there, and the old leader gets what it missed.

use bytes::Bytes;
use raft_core::effects::{Effects, Fetch, FetchResult, Pull, Role, Write};
use raft_core::message::Message;
use raft_core::types::{Entry, EntryKind, GroupId, HardState, NodeId, Now};
use raft_core::{Config, Raft, Restored};
use std::collections::{BTreeMap, VecDeque};

const VOTERS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
/// Bytes that a link takes at once.
const LINK_ROOM: u64 = 1 << 20;

/// What a node would find on its disk after a crash.
#[derive(Default)]
struct Disk {
    hard: HardState,
    log: Vec<Entry>,
}

impl Disk {
    /// All of it or nothing: here a `Vec` in memory, in the program one redb commit with an fsync.
    fn store(&mut self, write: &Write) {
        if let Some(hard) = write.hard {
            self.hard = hard;
        }
        if let Some(from) = write.truncate_from {
            self.log.retain(|entry| entry.id.index < from);
        }
        self.log.extend(write.entries.iter().cloned());
    }

    /// Entries that the replica does not hold in memory any more: after a restart, all of them.
    fn read(&self, fetch: &Fetch) -> FetchResult {
        let wanted = |entry: &&Entry| (fetch.from..=fetch.to).contains(&entry.id.index);
        let entries: Vec<Entry> = self.log.iter().filter(wanted).cloned().collect();
        if entries.is_empty() { FetchResult::Gone } else { FetchResult::Entries(entries) }
    }

    /// What `Raft::open` wants to know of it.
    fn restored(&self) -> Restored {
        Restored::of_log(self.hard, &self.log)
    }
}

struct Node {
    id: NodeId,
    raft: Raft,
    disk: Disk,
    /// The state machine of this example: the committed commands in order.
    applied: Vec<Bytes>,
}

impl Node {
    fn open(id: NodeId, disk: Disk, now: Now) -> Node {
        let config = Config::new(id, GroupId(1), VOTERS.to_vec());
        let raft = Raft::open(config, disk.restored(), id.0, now).expect("a sound configuration");
        Node { id, raft, disk, applied: Vec::new() }
    }

    /// One turn: carries out everything that is owed and returns the messages to send.
    fn turn(&mut self, now: Now) -> Vec<(NodeId, Message)> {
        let mut effects = Effects::default();
        let mut sent = Vec::new();
        while self.raft.poll(now, &mut effects) {
            if let Some(role) = effects.role {
                say(now, format_args!("n{}@{} is {:?}", self.id, role.term, role.role));
            }
            sent.extend(effects.send.drain(..).map(|envelope| (envelope.to, envelope.message)));
            if let Some(write) = &effects.write {
                self.disk.store(write);
                self.raft.persisted(now, write.token);
            }
            // Votes and acknowledgements are promises: they leave when the write is durable.
            let held = effects.send_after.drain(..);
            sent.extend(held.map(|(_, envelope)| (envelope.to, envelope.message)));
            self.apply(now, &effects.commit);
            for fetch in &effects.fetch {
                self.raft.fetched(now, fetch.id, self.disk.read(fetch));
            }
            for peer in &effects.appendable {
                let mut room = LINK_ROOM;
                loop {
                    match self.raft.next_append(now, *peer, room) {
                        Pull::Ready(message) => sent.push((*peer, message)),
                        // An entry that is larger than that goes alone.
                        Pull::Needs(bytes) => {
                            room = bytes;
                            continue;
                        }
                        Pull::Nothing => break,
                    }
                    room = LINK_ROOM;
                }
            }
        }
        sent
    }

    fn apply(&mut self, now: Now, entries: &[Entry]) {
        for entry in entries {
            if entry.kind == EntryKind::Command {
                let command = entry.payload();
                say(now, format_args!("n{} applies {} {:?}", self.id, entry.id, command));
                self.applied.push(command);
            }
            self.raft.applied(now, entry.id.index, entry.frame.len() as u64);
        }
    }
}

fn say(now: Now, what: std::fmt::Arguments<'_>) {
    println!("{:>6} ms  {what}", now / 1_000_000);
}

/// A message by its name in the paper and, of an append, what it carries.
fn describe(message: &Message) -> String {
    if let Message::AppendEntries(m) = message {
        let entries: Vec<String> = m.entries.iter().map(|entry| entry.id.to_string()).collect();
        return format!("AppendEntries after {} {entries:?} commit {}", m.prev, m.commit);
    }
    let text = format!("{message:?}");
    let name = text.split('(').next().unwrap_or_default();
    format!("{name} term {}", message.term())
}

/// All nodes that are up, the messages under way, and the time, which passes only when nothing else
/// is left to do.
#[derive(Default)]
struct World {
    nodes: BTreeMap<NodeId, Node>,
    network: VecDeque<(NodeId, NodeId, Message)>,
    now: Now,
}

impl World {
    /// Lets everything happen that can happen without time passing.
    fn settle(&mut self) {
        loop {
            for (id, node) in &mut self.nodes {
                let sent = node.turn(self.now);
                self.network.extend(sent.into_iter().map(|(to, message)| (*id, to, message)));
            }
            let Some((from, to, message)) = self.network.pop_front() else { return };
            // A message to a node that is down is lost, which Raft expects of a network.
            if let Some(node) = self.nodes.get_mut(&to) {
                say(self.now, format_args!("n{from} -> n{to} {}", describe(&message)));
                node.raft.step(self.now, from, message).expect("peers speak the protocol");
            }
        }
    }

    /// Jumps to the next instant at which some replica wants to be woken.
    fn sleep(&mut self) {
        let next = self.nodes.values().filter_map(|node| node.raft.deadline()).min();
        self.now = next.expect("every replica has a deadline").max(self.now);
        for node in self.nodes.values_mut() {
            node.raft.tick(self.now);
        }
        self.settle();
    }

    /// Waits for a leader that everybody up follows.
    fn leader(&mut self) -> NodeId {
        loop {
            let leads = |node: &&Node| node.raft.status().role == Role::Leader;
            let leader = self.nodes.values().find(leads).map(|node| node.id);
            let follows = |node: &Node| leader.is_some() && node.raft.status().leader == leader;
            if let Some(leader) = leader
                && self.nodes.values().all(follows)
            {
                return leader;
            }
            self.sleep();
        }
    }

    /// Proposes one command at the leader and waits until every node that is up has applied it.
    fn write(&mut self, command: &'static str) {
        let leader = self.leader();
        let node = self.nodes.get_mut(&leader).expect("the leader is up");
        let mut batch = std::iter::once(Bytes::from_static(command.as_bytes()));
        println!("\n-- {command}, proposed at n{leader}");
        let proposed = node.raft.propose(self.now, &mut batch);
        assert_eq!(proposed.count, 1, "a leader with a quorum takes it");
        self.settle();
        while self.nodes.values().any(|node| node.applied.last() != Some(&Bytes::from(command))) {
            self.sleep();
        }
    }
}

fn main() {
    let mut world = World::default();
    println!("-- three empty replicas start");
    for id in VOTERS {
        world.nodes.insert(id, Node::open(id, Disk::default(), world.now));
    }
    world.write("SET k 1");
    world.write("APPEND k 2");

    let lost = world.leader();
    let disk = world.nodes.remove(&lost).expect("it is up").disk;
    println!("\n-- n{lost}, the leader, loses power");
    world.write("APPEND k 3");

    println!("\n-- n{lost} starts again from its disk");
    world.nodes.insert(lost, Node::open(lost, disk, world.now));
    world.write("APPEND k 4");

    let expected = ["SET k 1", "APPEND k 2", "APPEND k 3", "APPEND k 4"];
    for node in world.nodes.values() {
        assert_eq!(node.applied, expected, "n{}", node.id);
    }
    println!("\nall three applied {expected:?}");
}

#[test]
fn three_replicas_agree_over_the_leaders_death() {
    main();
}
