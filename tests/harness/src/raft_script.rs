//! The commands of the golden scripts in `golden/raft`: a group told what happens to it, word by
//! word, and what it then does.
//!
//! After each command every node does what it can alone: its disk syncs unless it is stalled, its
//! links pull, its state machine applies. Only messages wait, for `deliver`.
//!
//! | command | |
//! |---|---|
//! | `cluster nodes=3 [window=BYTES] [cache=BYTES] [lease=MS] [start=no]` | a new group, all nodes empty |
//! | `disk n1 term=3 [vote=n1] [log=1,1,2]` | what a node that is down finds on its disk, as terms |
//! | `start n1...` `crash n1` `powerloss n1 [keep=0]` | unsynced writes: all kept, or the first few |
//! | `campaign n1` | its leader's node says that it does not lead, a second passes, its timer fires |
//! | `elapse n1 ms=500` `tick n1` `heartbeat n1` | its clock alone; its timers; both, by a probe's 200 ms |
//! | `propose n1 a b` | offers commands |
//! | `deliver [n2] [from=n1] [count=1]` `drop` likewise | messages on their way, one round |
//! | `stabilize` | delivers until nothing is on its way |
//! | `read n1 [mode=lease] r1 r2` `transfer n1 n2` | reads without the log; hands leadership on |
//! | `cut n1 [to=n2]` `heal` | messages are lost from now on: to and from n1, or one way |
//! | `stall n1` `sync n1 [writes=1]` `unstall n1` | when its disk syncs |
//! | `deadline n1` | how long its core would sleep |
//! | `checkpoint n1` | a durable checkpoint of what is applied; `cluster trailing=BYTES logmax=BYTES` says what stays |
//! | `late n1` `ontime n1` | whether old entries that it asked its disk for come, and its state machine holds a snapshot that was installed |
//! | `delete n4` | of a node that is down term and vote are left: it joins anew, knowing no member |
//! | `broken n1 n2` | n1's host cannot go on sending a snapshot to n2 |
//! | `link n1 n2` | a new link between two nodes |
//! | `conf n1 voters=n1,n2 [learners=n3]` | changes who is in the group; `cluster nodes=5 voters=3` starts with the first three |
//! | `edge n1 n2 down` | what n1 hears of n2's node: `deaf` `down` `gone` `stalled`, with `term=` `disowned` `unbelieved` |
//! | `inject n2 from=n1 NAME key=value...` | a message nobody sent |
//! | `log [n1...]` `status [n1...]` | what they have |

use crate::raft_disk::{Chunk, Disk};
use crate::raft_world::{Event, World};
use bytes::Bytes;
use goldenscript::{ArgumentConsumer, Command, Context};
use raft_core::Config;
use raft_core::conf::{Conf, ConfChange};
use raft_core::effects::{Envelope, NodeLiveness, ReadMode, Role, Write};
use raft_core::frame::encode_entry;
use raft_core::message::{
    AppendEntries, AppendEntriesReply, AppendOutcome, InstallSnapshot, Message, PreVote,
    RequestVote,
};
use raft_core::snapshot::{SnapCmd, SnapEvent, Snapshot, SnapshotId};
use raft_core::types::{
    Entry, EntryId, EntryKind, GroupId, HardState, Index, NodeId, Now, ReadId, Term,
};
use std::collections::{BTreeSet, VecDeque};
use std::error::Error;
use std::fmt::Write as _;

const GROUP: GroupId = GroupId(1);
const MS: Now = 1_000_000;
/// No script needs more rounds to become quiet; more means that it never will.
const ROUNDS_MAX: usize = 200;

/// Runs one script.
#[derive(Default)]
pub struct RaftScript {
    world: Option<World>,
    wire: VecDeque<(NodeId, Item)>,
    stalled: BTreeSet<NodeId>,
    late: BTreeSet<NodeId>,
    cuts: BTreeSet<(NodeId, NodeId)>,
    output: String,
}

/// What is on its way.
enum Item {
    Message(Envelope),
    Chunk(Chunk),
}

impl Item {
    fn to(&self) -> NodeId {
        match self {
            Item::Message(envelope) => envelope.to,
            Item::Chunk(chunk) => chunk.to,
        }
    }
}

type Answer<T> = Result<T, Box<dyn Error>>;

fn node(text: &str) -> Answer<NodeId> {
    let number = text.strip_prefix('n').ok_or_else(|| format!("'{text}' is no node"))?;
    Ok(NodeId(number.parse()?))
}

fn number(args: &mut ArgumentConsumer<'_>, key: &str, otherwise: u64) -> Answer<u64> {
    Ok(args.take_key(key).map(|text| text.parse()).transpose()?.unwrap_or(otherwise))
}

fn entry_id(text: &str) -> Answer<EntryId> {
    let (index, term) = text.split_once('@').ok_or_else(|| format!("'{text}' is no index@term"))?;
    Ok(EntryId { index: Index(index.parse()?), term: Term(term.parse()?) })
}

fn entry(id: EntryId) -> Entry {
    encode_entry(GROUP, id, EntryKind::Command, id.to_string().as_bytes())
}

fn ids(entries: &[Entry]) -> String {
    let ids: Vec<String> = entries.iter().map(|entry| entry.id.to_string()).collect();
    ids.join(" ")
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}

fn describe_conf(conf: &Conf) -> String {
    let list = |ids: &[NodeId]| ids.iter().map(|id| format!("n{id}")).collect::<Vec<_>>().join(",");
    let mut text = list(&conf.voters);
    let parts = [
        ("leaving", &conf.outgoing),
        ("learners", &conf.learners),
        ("goal", &conf.goal),
        ("demoted", &conf.demoted),
    ];
    for (name, ids) in parts.into_iter().filter(|(_, ids)| !ids.is_empty()) {
        text += &format!(" {name}={}", list(ids));
    }
    if conf.follows > 0 {
        text += &format!(" follows={}", conf.follows);
    }
    text
}

/// A lease's length, if there is one.
fn lease(ns: Now) -> String {
    if ns == 0 { String::new() } else { format!(" lease={}ms", ns / MS) }
}

fn describe(message: &Message) -> String {
    let granted = |granted| if granted { "granted" } else { "refused" };
    match message {
        Message::PreVote(m) => format!("PreVote round={} last={}", m.round as u32, m.last),
        Message::PreVoteReply(m) => {
            let removed = m.removed.map(|index| format!(" removed={index}")).unwrap_or_default();
            format!("PreVoteReply round={} {}{removed}", m.round as u32, granted(m.granted))
        }
        Message::RequestVote(m) => {
            format!("RequestVote last={}{}", m.last, if m.transfer { " transfer" } else { "" })
        }
        Message::RequestVoteReply(m) => format!("RequestVoteReply {}", granted(m.granted)),
        Message::AppendEntries(m) => {
            format!("AppendEntries prev={} commit={} [{}]", m.prev, m.commit, ids(&m.entries))
        }
        Message::Confirm(m) => format!("Confirm seq={}{}", m.seq as u32, lease(m.lease_ns)),
        Message::ConfirmReply(m) => {
            format!("ConfirmReply seq={}{}", m.seq as u32, lease(m.promised_ns))
        }
        Message::ReadIndex(m) => format!("ReadIndex seq={}", m.seq as u32),
        Message::ReadIndexReply(m) => match m.index {
            Some(index) => format!("ReadIndexReply seq={} index={index}", m.seq as u32),
            None => format!("ReadIndexReply seq={} refused", m.seq as u32),
        },
        Message::TimeoutNow(_) => "TimeoutNow".to_string(),
        Message::InstallSnapshot(m) => {
            format!("InstallSnapshot {} {} bytes", m.snapshot.id.at, m.snapshot.bytes)
        }
        Message::InstallSnapshotReply(m) => {
            format!("InstallSnapshotReply {} from byte {}", m.id.at, m.offset)
        }
        Message::AppendEntriesReply(m) => match &m.outcome {
            AppendOutcome::Accepted { matched, received } if matched == received => {
                format!("AppendEntriesReply matched={matched}")
            }
            AppendOutcome::Accepted { matched, received } => {
                format!("AppendEntriesReply matched={matched} received={received}")
            }
            AppendOutcome::Rejected { prev, hint } => {
                format!("AppendEntriesReply rejected={prev} hint={hint}")
            }
        },
    }
}

fn describe_write(write: &Write) -> String {
    let mut parts = Vec::new();
    if let Some(hard) = write.hard {
        let vote = hard.voted_for.map(|id| format!(" vote=n{id}")).unwrap_or_default();
        parts.push(format!("term={}{vote}{}", hard.term, lease(hard.promised_ns)));
    }
    if let Some(snapshot) = &write.install {
        parts.push(format!("install={}", snapshot.id.at));
    }
    if let Some(from) = write.truncate_from {
        parts.push(format!("cut={from}"));
    }
    if !write.entries.is_empty() {
        parts.push(format!("append={}", ids(&write.entries)));
    }
    format!("w{} {}", write.token, parts.join(" "))
}

impl goldenscript::Runner for RaftScript {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &Context) -> Answer<String> {
        let mut args = command.consume_args();
        match command.name.as_str() {
            "cluster" => self.cluster(&mut args)?,
            "disk" => self.disk(&mut args)?,
            "inject" => self.inject(&mut args)?,
            "deliver" | "drop" => {
                let to = args.next_pos().map(node).transpose()?;
                let from = args.take_key("from").map(node).transpose()?;
                let count = number(&mut args, "count", u64::MAX)?;
                self.deliver(to, from, count, command.name == "deliver")?;
            }
            "stabilize" => self.stabilize()?,
            "propose" => self.propose(&mut args)?,
            "read" => self.read(&mut args)?,
            "edge" => self.edge(&mut args)?,
            "conf" => self.conf(&mut args)?,
            "transfer" => {
                let id = self.node(&mut args)?;
                let to = node(args.next_pos().ok_or("to which node?")?)?;
                let answer = self.world()?.call(id, |raft, now| raft.transfer(now, to));
                if let Some(Err(refused)) = answer {
                    writeln!(self.output, "n{id} refuses: {refused}")?;
                }
            }
            "cut" => self.cut(&mut args)?,
            "heal" => self.cuts.clear(),
            "link" => {
                let (a, b) = (self.node(&mut args)?, self.node(&mut args)?);
                self.world()?.connect(a, b);
            }
            "log" => self.for_each(&mut args, |script, id| script.show_log(id))?,
            "status" => self.for_each(&mut args, |script, id| script.show_status(id))?,
            "start" => self.for_each(&mut args, |script, id| {
                script.world()?.start(id, id.0);
                Ok(())
            })?,
            verb => self.one_node(verb, &mut args)?,
        }
        args.reject_next()?;
        self.settle()?;
        Ok(std::mem::take(&mut self.output))
    }
}

impl RaftScript {
    fn world(&mut self) -> Answer<&mut World> {
        self.world.as_mut().ok_or_else(|| "a script begins with 'cluster'".into())
    }

    fn node(&mut self, args: &mut ArgumentConsumer<'_>) -> Answer<NodeId> {
        let id = node(args.next_pos().ok_or("which node?")?)?;
        if !self.world()?.ids().contains(&id) {
            return Err(format!("there is no n{id}").into());
        }
        Ok(id)
    }

    fn for_each(
        &mut self,
        args: &mut ArgumentConsumer<'_>,
        mut each: impl FnMut(&mut RaftScript, NodeId) -> Answer<()>,
    ) -> Answer<()> {
        let mut nodes = Vec::new();
        while let Some(text) = args.next_pos() {
            nodes.push(node(text)?);
        }
        if nodes.is_empty() {
            nodes = self.world()?.ids();
        }
        nodes.into_iter().try_for_each(|id| each(self, id))
    }

    fn cluster(&mut self, args: &mut ArgumentConsumer<'_>) -> Answer<()> {
        let nodes = number(args, "nodes", 3)?;
        let window = number(args, "window", 4 << 20)?;
        let cache = number(args, "cache", 8 << 20)?;
        let uncommitted = number(args, "uncommitted", 16 << 20)?;
        let lease_ns = number(args, "lease", 0)? * MS;
        let trailing = number(args, "trailing", 0)?;
        let missed_ns = number(args, "missed", 0)? * MS;
        let missed_bytes_max = number(args, "missedmax", 256 << 20)?;
        let log_bytes_max = number(args, "logmax", 1 << 30)?;
        let log_disk_bytes_max = number(args, "diskmax", 16 << 30)?;
        let ids: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let voters = number(args, "voters", nodes)?;
        let voters: Vec<NodeId> = (1..=voters).map(NodeId).collect();
        let configs = ids.iter().map(|id| Config {
            inflight_bytes_max: window,
            entry_cache_bytes_max: cache,
            uncommitted_bytes_max: uncommitted,
            lease_ns,
            log_trailing_bytes: trailing,
            missed_ns,
            missed_bytes_max,
            log_bytes_max,
            log_disk_bytes_max,
            ..Config::new(*id, GROUP, voters.clone())
        });
        let mut world = World::new(configs.collect());
        if args.take_key("start") != Some("no") {
            ids.iter().for_each(|id| world.start(*id, id.0));
        }
        *self = RaftScript { world: Some(world), ..RaftScript::default() };
        Ok(())
    }

    fn disk(&mut self, args: &mut ArgumentConsumer<'_>) -> Answer<()> {
        let id = self.node(args)?;
        let term = Term(number(args, "term", 0)?);
        let voted_for = args.take_key("vote").map(node).transpose()?;
        let terms = args.take_key("log").unwrap_or_default();
        let mut log = Vec::new();
        for (text, index) in terms.split(',').filter(|text| !text.is_empty()).zip(1..) {
            log.push(entry(EntryId { index: Index(index), term: Term(text.parse()?) }));
        }
        self.world()?.host_mut(id).disk =
            Disk::with(HardState { term, voted_for, promised_ns: 0 }, log);
        Ok(())
    }

    fn one_node(&mut self, verb: &str, args: &mut ArgumentConsumer<'_>) -> Answer<()> {
        let id = self.node(args)?;
        let stalled = self.stalled.contains(&id);
        let world = self.world.as_mut().ok_or("a script begins with 'cluster'")?;
        match verb {
            "campaign" => {
                let raft = world.host(id).raft.as_ref().ok_or("that node is down")?;
                let status = raft.status();
                if let Some(leader) = status.leader.filter(|leader| *leader != id) {
                    let disowned = NodeLiveness::Disowned { term: status.hard.term };
                    world.call(id, |raft, now| raft.liveness(now, leader, disowned));
                }
                world.host_mut(id).now += 1000 * MS;
                world.call(id, |raft, now| raft.tick(now));
            }
            "heartbeat" => {
                world.host_mut(id).now += 200 * MS;
                world.call(id, |raft, now| raft.tick(now));
            }
            "elapse" => world.host_mut(id).now += number(args, "ms", 0)? * MS,
            "tick" => {
                world.call(id, |raft, now| raft.tick(now));
            }
            "deadline" => {
                let host = world.host(id);
                let raft = host.raft.as_ref().ok_or("that node is down")?;
                match raft.deadline() {
                    Some(at) => {
                        let ms = at.saturating_sub(host.now) / MS;
                        writeln!(self.output, "n{id} sleeps for {ms} ms")?;
                    }
                    None => writeln!(self.output, "n{id} sleeps until something happens")?,
                }
            }
            "checkpoint" => {
                if !world.checkpoint(id) {
                    writeln!(self.output, "n{id} has nothing new that is durable")?;
                }
            }
            "shorten" => {
                world.call(id, |raft, now| raft.shorten_log(now));
            }
            "crash" => world.crash(id, usize::MAX),
            "delete" => world.delete(id),
            "powerloss" => world.crash(id, number(args, "keep", 0)? as usize),
            "stall" => {
                self.stalled.insert(id);
            }
            "unstall" => {
                self.stalled.remove(&id);
            }
            "late" => {
                self.late.insert(id);
            }
            "ontime" => {
                self.late.remove(&id);
            }
            "broken" => {
                let peer = node(args.next_pos().ok_or("to which node?")?)?;
                world.call(id, |raft, now| raft.snapshot(now, SnapEvent::Failed { peer }));
            }
            "sync" if stalled => world.sync(id, number(args, "writes", 1)? as usize),
            _ => return Err(format!("unknown command '{verb}'").into()),
        }
        Ok(())
    }

    fn propose(&mut self, args: &mut ArgumentConsumer<'_>) -> Answer<()> {
        let id = self.node(args)?;
        let mut commands = Vec::new();
        while let Some(text) = args.next_pos() {
            // `ax300` stands for 300 times `a`.
            let (text, times) = text.split_once('x').unwrap_or((text, "1"));
            commands.push(Bytes::from(text.repeat(times.parse()?)));
        }
        let proposed = self.world()?.propose(id, commands).ok_or("that node is down")?;
        if let Some(refused) = proposed.refused {
            writeln!(self.output, "n{id} refuses: {refused:?}")?;
        }
        Ok(())
    }

    fn conf(&mut self, args: &mut ArgumentConsumer<'_>) -> Answer<()> {
        let id = self.node(args)?;
        let mut list = |key: &str| {
            let text = args.take_key(key).unwrap_or_default();
            text.split(',').filter(|text| !text.is_empty()).map(node).collect::<Answer<Vec<_>>>()
        };
        let change = ConfChange {
            voters: list("voters")?,
            learners: list("learners")?,
            follows: number(args, "follows", 0)?,
        };
        let answer = self.world()?.call(id, |raft, now| raft.change_conf(now, &change));
        if let Some(Err(refused)) = answer {
            writeln!(self.output, "n{id} refuses: {refused}")?;
        }
        Ok(())
    }

    fn edge(&mut self, args: &mut ArgumentConsumer<'_>) -> Answer<()> {
        let (id, peer) = (self.node(args)?, self.node(args)?);
        let term = Term(number(args, "term", 0)?);
        let edge = match args.next_pos().ok_or("which edge?")? {
            "deaf" => NodeLiveness::Deaf,
            "down" => NodeLiveness::Down { gone: false },
            "gone" => NodeLiveness::Down { gone: true },
            "stalled" => NodeLiveness::DiskStalled,
            "disowned" => NodeLiveness::Disowned { term },
            "unbelieved" => NodeLiveness::Unbelieved { term },
            other => return Err(format!("unknown edge '{other}'").into()),
        };
        self.world()?.call(id, |raft, now| raft.liveness(now, peer, edge));
        Ok(())
    }

    fn read(&mut self, args: &mut ArgumentConsumer<'_>) -> Answer<()> {
        let id = self.node(args)?;
        let mode = match args.take_key("mode") {
            Some("lease") => ReadMode::Lease,
            _ => ReadMode::Index,
        };
        while let Some(text) = args.next_pos() {
            let read = ReadId(text.trim_start_matches('r').parse()?);
            let asked = self.world()?.read(id, read, mode).ok_or("that node is down")?;
            if let Err(refused) = asked {
                writeln!(self.output, "n{id} refuses r{read}: {refused}")?;
            }
        }
        Ok(())
    }

    fn cut(&mut self, args: &mut ArgumentConsumer<'_>) -> Answer<()> {
        let id = self.node(args)?;
        match args.take_key("to").map(node).transpose()? {
            Some(to) => {
                self.cuts.insert((id, to));
            }
            None => {
                let ids = self.world()?.ids();
                self.cuts.extend(ids.iter().flat_map(|peer| [(id, *peer), (*peer, id)]));
            }
        }
        Ok(())
    }

    fn deliver(
        &mut self,
        to: Option<NodeId>,
        from: Option<NodeId>,
        mut count: u64,
        arrives: bool,
    ) -> Answer<()> {
        for (sender, item) in std::mem::take(&mut self.wire) {
            let chosen = to.is_none_or(|to| to == item.to()) && from.is_none_or(|f| f == sender);
            if !chosen || count == 0 {
                self.wire.push_back((sender, item));
                continue;
            }
            count -= 1;
            if arrives {
                match item {
                    Item::Message(m) => self.world()?.deliver(sender, m.to, m.message)?,
                    Item::Chunk(chunk) => self.world()?.chunk(chunk, false),
                }
                self.settle()?;
            }
        }
        Ok(())
    }

    fn stabilize(&mut self) -> Answer<()> {
        for _ in 0..ROUNDS_MAX {
            if self.wire.is_empty() {
                return Ok(());
            }
            self.deliver(None, None, u64::MAX, true)?;
        }
        Err("the group does not become quiet".into())
    }

    fn inject(&mut self, args: &mut ArgumentConsumer<'_>) -> Answer<()> {
        let to = self.node(args)?;
        let from = node(args.take_key("from").ok_or("from whom?")?)?;
        let term = Term(number(args, "term", 1)?);
        let last = args.take_key("last").map(entry_id).transpose()?.unwrap_or_default();
        let message = match args.next_pos().ok_or("which message?")? {
            "RequestVote" => Message::RequestVote(RequestVote {
                term,
                last,
                transfer: args.take_key("transfer").is_some(),
            }),
            "PreVote" => Message::PreVote(PreVote { term, round: number(args, "round", 1)?, last }),
            "AppendEntries" => {
                let prev = args.take_key("prev").map(entry_id).transpose()?.unwrap_or_default();
                let commit = Index(number(args, "commit", 0)?);
                let texts = args.take_key("entries").unwrap_or_default();
                let texts = texts.split(',').filter(|text| !text.is_empty());
                let entries = texts.map(|text| entry_id(text).map(entry));
                let entries = entries.collect::<Answer<Vec<Entry>>>()?;
                Message::AppendEntries(AppendEntries {
                    term,
                    prev,
                    commit,
                    stamp: 0,
                    lease_ns: 0,
                    entries: entries.into(),
                })
            }
            "InstallSnapshot" => {
                let at = entry_id(args.take_key("at").ok_or("at which entry?")?)?;
                let id = SnapshotId { at, hash: number(args, "hash", 0)? };
                let conf = (Index(0), Conf::of_voters(self.world()?.ids()));
                let snapshot = Box::new(Snapshot { id, bytes: number(args, "bytes", 1)?, conf });
                Message::InstallSnapshot(InstallSnapshot { term, stamp: 0, lease_ns: 0, snapshot })
            }
            "AppendEntriesReply" => {
                let hint = args.take_key("hint").map(entry_id).transpose()?.unwrap_or_default();
                let prev = Index(number(args, "rejected", 0)?);
                let outcome = AppendOutcome::Rejected { prev, hint };
                let (stamp, promised_ns, commit) = (0, 0, Index(0));
                let reply = AppendEntriesReply { term, stamp, promised_ns, commit, outcome };
                Message::AppendEntriesReply(reply)
            }
            other => return Err(format!("cannot inject '{other}'").into()),
        };
        self.world()?.deliver(from, to, message).map_err(Into::into)
    }

    fn show_log(&mut self, id: NodeId) -> Answer<()> {
        let log = ids(self.world()?.log(id));
        writeln!(self.output, "n{id} {log}")?;
        Ok(())
    }

    fn show_status(&mut self, id: NodeId) -> Answer<()> {
        let Some(raft) = &self.world()?.host(id).raft else {
            writeln!(self.output, "n{id} is down")?;
            return Ok(());
        };
        let status = raft.status();
        let base = match status.base {
            EntryId { index: Index(0), .. } => String::new(),
            base => format!(" base={base} checkpoint={}", status.checkpoint),
        };
        let leader = status.leader.map(|leader| format!(" of n{leader}")).unwrap_or_default();
        writeln!(
            self.output,
            "n{id}@{} {}{leader} last={} commit={} applied={} durable={}{base}",
            status.hard.term,
            role(status.role),
            status.last,
            status.commit,
            status.applied,
            status.durable
        )?;
        Ok(())
    }

    /// Lets every node do what it can without a message, and tells it.
    fn settle(&mut self) -> Answer<()> {
        loop {
            self.tell()?;
            let (stalled, late) = (self.stalled.clone(), self.late.clone());
            let world = self.world()?;
            let mut busy = false;
            for id in world.ids() {
                if world.host(id).disk.unsynced() > 0 && !stalled.contains(&id) {
                    world.sync(id, 1);
                    busy = true;
                }
                if !world.host(id).fetches.is_empty() && !late.contains(&id) {
                    world.answer_fetch(id);
                    busy = true;
                }
                if world.host(id).installing.is_some() && !late.contains(&id) {
                    world.installed(id);
                    busy = true;
                }
                if world.host(id).unreported.is_some() {
                    world.report_applied(id);
                    busy = true;
                }
                for peer in world.host(id).appendable.clone() {
                    busy |= world.pull(id, peer, 1 << 20);
                }
            }
            if !busy && self.world()?.events.is_empty() {
                return Ok(());
            }
        }
    }

    fn tell(&mut self) -> Answer<()> {
        for (id, event) in std::mem::take(&mut self.world()?.events) {
            match event {
                Event::Role { before, after, leader } => {
                    write!(self.output, "n{id}@{} {} -> ", before.1, role(before.0))?;
                    write!(self.output, "n{id}@{} {}", after.1, role(after.0))?;
                    match leader.filter(|leader| *leader != id) {
                        Some(leader) => writeln!(self.output, " of n{leader}")?,
                        None => writeln!(self.output)?,
                    }
                }
                Event::Sent(envelope) => {
                    let Envelope { to, message } = &envelope;
                    let lost = self.cuts.contains(&(id, *to));
                    let text = describe(message);
                    let mark = if lost { " (lost)" } else { "" };
                    writeln!(self.output, "n{id}@{} -> n{to} {text}{mark}", message.term())?;
                    if !lost {
                        self.wire.push_back((id, Item::Message(envelope)));
                    }
                }
                Event::Write(write) => {
                    writeln!(self.output, "n{id} writes {}", describe_write(&write))?;
                }
                Event::Synced(token) if self.stalled.contains(&id) => {
                    writeln!(self.output, "n{id} synced w{token}")?;
                }
                Event::Synced(_) => {}
                Event::Applied(entry) => {
                    let conf = Conf::of_entry(&entry).map(|conf| describe_conf(&conf).into());
                    let payload = conf
                        .unwrap_or_else(|| entry.payload().slice(..entry.payload().len().min(20)));
                    let text = String::from_utf8_lossy(&payload);
                    writeln!(self.output, "n{id} applies {} \"{text}\"", entry.id)?;
                }
                Event::Conf(view) => {
                    let committed = if view.committed { " committed" } else { "" };
                    let conf = describe_conf(&view.conf);
                    writeln!(self.output, "n{id} conf {conf} at {}{committed}", view.index)?;
                }
                Event::Compact(base) => writeln!(self.output, "n{id} drops its log to {base}")?,
                Event::Chunk(chunk) => {
                    let (Chunk { to, bytes: (from, end), image }, lost) =
                        (&chunk, self.cuts.contains(&(id, chunk.to)));
                    let (at, mark) = (image.snapshot.id.at, if lost { " (lost)" } else { "" });
                    writeln!(self.output, "n{id} => n{to} {at} bytes {from}..{end}{mark}")?;
                    if !lost {
                        self.wire.push_back((id, Item::Chunk(chunk)));
                    }
                }
                Event::Snap(SnapCmd::Stop { peer, id: name }) => {
                    writeln!(self.output, "n{id} stops sending {} to n{peer}", name.at)?;
                }
                Event::Snap(SnapCmd::Discard { id: name }) => {
                    writeln!(self.output, "n{id} discards {}", name.at)?;
                }
                Event::Snap(SnapCmd::Send { .. }) => {}
                Event::Installed(name) => writeln!(self.output, "n{id} holds {}", name.at)?,
                Event::Removed(index) => writeln!(self.output, "n{id} is told removed at {index}")?,
                Event::Read(read, index) => {
                    writeln!(self.output, "n{id} reads r{read} at {index}")?;
                }
                Event::ReadFailed(read) => writeln!(self.output, "n{id} fails r{read}")?,
                Event::Fetch(fetch) => {
                    writeln!(self.output, "n{id} fetches {}..={}", fetch.from, fetch.to)?;
                }
            }
        }
        Ok(())
    }
}
