//! Golden scripts for the shardmaster: a script is entries and reports, its output the answers.
//!
//! Every entry goes through the codec into two replicas, whose answers, digests and maps must be equal; a
//! subscriber that only hears of changes must have the same map. `restart` makes the second replica anew
//! from its rows: what was changed since the last one is all that was written.
//!
//! Ops are written as verbs; slots as `5` or `0-99`, lists as `1/2/3`. `id=` is a request id. `report 3`
//! reports move 3 for both sides as activated; `side=` for one, `refused=memory|progress|cancelled` another end,
//! `by=` and `slot=` what is not so. `finish` lets both sides report what is under way until nothing is.
//! `dry` before an op shows what it would move.

use goldenscript::{ArgumentConsumer, Command, Context, Runner};
use shard_core::checkpoint::RowChange;
use shard_core::cluster_config::{
    ClusterConfig, ConfigChange, ConfigNum, GroupConfig, NodeConfig, SHARDMASTER, SlotRange,
};
use shard_core::cluster_map::{ClusterMap, GroupMembers, MemberStep, MoveRecord};
use shard_core::codec::{EntryBatch, EntryItem, decode_batch, encode_batch};
use shard_core::machine::{Machine, MachineLoader};
use shard_core::moves::{MoveId, MoveOutcome, RefuseReason};
use shard_core::session::LogTime;
use shard_core::shard_store::{Collected, RowBudget};
use shard_core::shardmaster::{
    Cancel, MasterOp, MasterRequest, MoveReport, RequestId, Shardmaster, Side,
};
use shard_core::slot::{SLOTS, Slot};
use shard_core::wire::Answer;
use shard_core::{GroupId, NodeId};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::str::FromStr;

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Ranges = Vec<(Slot, Slot)>;

/// Runs the scripts of `golden/master`.
pub struct MasterScript {
    replicas: [Machine; 2],
    subscriber: ClusterMap,
    /// The rows of the second replica.
    disk: BTreeMap<Vec<u8>, Vec<u8>>,
    stamp: LogTime,
}

impl Default for MasterScript {
    fn default() -> MasterScript {
        MasterScript {
            replicas: [(); 2].map(|()| Machine::new(SHARDMASTER)),
            subscriber: ClusterMap::default(),
            disk: BTreeMap::new(),
            stamp: LogTime(0),
        }
    }
}

impl Runner for MasterScript {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String> {
        let mut args = command.consume_args();
        let text = command.to_string();
        let output = match command.name.as_str() {
            "at" => {
                self.stamp = LogTime(positional(&mut args)?);
                String::new()
            }
            "tick" => {
                self.apply(Vec::new())?;
                String::new()
            }
            "restart" => self.restart()?,
            "bootstrap" => {
                let config = bootstrap(&mut args)?;
                self.entry(&text, EntryItem::Bootstrap(config))?
            }
            "assign-store" => {
                let item = EntryItem::Assign { config: ConfigNum(1), ranges: Vec::new() };
                self.entry(&text, item)?
            }
            "report" => self.report(&text, &mut args)?,
            "finish" => self.finish()?,
            "dry" => self.dry(&mut args)?,
            "config" => {
                let num = args.next_pos().map(u64::from_str).transpose()?.map(ConfigNum);
                show_config(&self.master().config(num))
            }
            "diff" => {
                let (from, to) = (positional(&mut args)?, positional(&mut args)?);
                let config = |num| self.master().config(Some(ConfigNum(num)));
                show_change(&ConfigChange::between(&config(from), &config(to)))
            }
            "groups" => show_groups(self.master()),
            "owners" => show_owners(self.master().map()),
            "moves" => self.master().map().moves.values().map(show_move).collect(),
            "ended" => self.master().ended_moves().map(|ended| show_move(&ended.record)).collect(),
            "waiting" => show_waiting(self.master()),
            "map" => show_map(self.master().map()),
            "seats" => show_seats(self.master()),
            name => {
                let id = key(&mut args, "id")?.map(RequestId);
                let op = parse_op(name, &mut args)?;
                self.entry(&text, EntryItem::Master(MasterRequest { id, op }))?
            }
        };
        args.reject_next()?;
        Ok(output)
    }
}

impl MasterScript {
    fn master(&self) -> &Shardmaster {
        match &self.replicas[0] {
            Machine::Master(master) => master,
            Machine::Shard(_) => panic!("group 0 is the shardmaster"),
        }
    }

    fn entry(&mut self, text: &str, item: EntryItem) -> Result<String> {
        let answers = self.apply(vec![item])?;
        Ok(format!("{text} -> {}\n", show_answer(&answers[0])))
    }

    fn apply(&mut self, items: Vec<EntryItem>) -> Result<Vec<Answer>> {
        let bytes = encode_batch(&EntryBatch::new(self.stamp, items));
        let before = self.master().map().clone();
        let [a, b] = &mut self.replicas;
        let answers = a.apply(decode_batch(&bytes)?);
        assert_eq!(answers, b.apply(decode_batch(&bytes)?), "two replicas, one entry");
        assert_eq!(a.digest(), b.digest(), "two replicas, one entry");
        let map = self.master().map().clone();
        map.check()?;
        assert_eq!(map.version > before.version, map != before, "a version for each change");
        self.subscriber.apply(&map.diff(&before))?;
        assert_eq!(self.subscriber, map, "who hears of each change has the map");
        Ok(answers)
    }

    /// The second replica goes on with what it has written.
    fn restart(&mut self) -> Result<String> {
        let replica = &mut self.replicas[1];
        let digest = replica.digest();
        replica.freeze();
        let (mut written, mut done) = (0, false);
        while !done {
            let step = replica.collect(RowBudget { rows: 7, bytes: 1 << 20 });
            let Collected { rows, done: last } = step;
            done = last;
            written += rows.len();
            for row in rows {
                match row {
                    RowChange::Put { key, head, body } => {
                        self.disk.insert(key.to_vec(), body.behind(&head));
                    }
                    RowChange::Delete { key } => drop(self.disk.remove(&key[..])),
                    RowChange::DeletePrefix { .. } => panic!("the shardmaster has no such rows"),
                }
            }
        }
        let mut loader = MachineLoader::new(SHARDMASTER);
        for (key, value) in &self.disk {
            loader.row(key, value.clone().into())?;
        }
        let loaded = loader.finish()?;
        assert_eq!(loaded.digest(), digest, "what was written is what there was");
        *replica = loaded;
        Ok(format!("restart: {written} rows written, {} in all\n", self.disk.len()))
    }

    fn report(&mut self, text: &str, args: &mut ArgumentConsumer) -> Result<String> {
        let id = MoveId(positional(args)?);
        let side: Option<String> = key(args, "side")?;
        let (by, slot) = (key(args, "by")?.map(GroupId), key(args, "slot")?.map(Slot));
        let outcome = outcome(key::<String>(args, "refused")?.as_deref())?;
        let order = self.master().map().moves.get(&id).map(|record| record.order);
        let mut items = Vec::new();
        for (name, at, group) in [
            ("destination", Side::Destination, order.map(|order| order.to)),
            ("source", Side::Source, order.and_then(|order| order.from)),
        ] {
            let asked = side.as_deref().map_or(group.is_some(), |side| side == name);
            if let Some(group) = by.or(group).filter(|_| asked) {
                let slot = slot.or(order.map(|order| order.slot)).unwrap_or_default();
                let report = MoveReport { id, slot, by: group, side: at, outcome };
                let op = MasterOp::Report(report);
                items.push(EntryItem::Master(MasterRequest { id: None, op }));
            }
        }
        let answers = self.apply(items)?;
        Ok(answers.iter().map(|answer| format!("{text} -> {}\n", show_answer(answer))).collect())
    }

    /// Every move under way ends well until there is none.
    fn finish(&mut self) -> Result<String> {
        let (mut count, mut rounds) = (0, 0);
        loop {
            let open: Vec<MoveRecord> = self.master().map().moves.values().copied().collect();
            let mut items = Vec::new();
            for record in open {
                count += u32::from(record.ended.is_none());
                let outcome = record.ended.map_or(MoveOutcome::Activated, |(outcome, _)| outcome);
                let order = record.order;
                let (id, slot) = (order.id, order.slot);
                for (side, by) in [(Side::Destination, Some(order.to)), (Side::Source, order.from)]
                {
                    items.extend(by.map(|by| {
                        let op = MasterOp::Report(MoveReport { id, slot, by, side, outcome });
                        EntryItem::Master(MasterRequest { id: None, op })
                    }));
                }
            }
            if items.is_empty() {
                return Ok(format!("finish: {count} moves in {rounds} rounds\n"));
            }
            rounds += 1;
            self.apply(items)?;
        }
    }

    fn dry(&mut self, args: &mut ArgumentConsumer) -> Result<String> {
        let name = args.next_pos().ok_or("dry what?")?.to_owned();
        let op = parse_op(&name, args)?;
        let digest = self.master().digest();
        let planned = self.master().plan_dry(&op);
        assert_eq!(self.master().digest(), digest, "a dry run changes nothing");
        let mut output = String::new();
        match planned {
            Ok(planned) => {
                for run in &planned {
                    let from = run.from.map_or("nobody".to_owned(), |group| format!("g{group}"));
                    let slots = show_range(run.first, run.last);
                    writeln!(output, "{slots} {from} -> g{}: {}", run.to, run.reason)?;
                }
                let slots: u32 =
                    planned.iter().map(|run| u32::from(run.last.0 - run.first.0) + 1).sum();
                writeln!(output, "{slots} slots")?;
            }
            Err(error) => writeln!(output, "error: {error}")?,
        }
        Ok(output)
    }
}

fn parse_op(name: &str, args: &mut ArgumentConsumer) -> Result<MasterOp> {
    Ok(match name {
        "add-node" => MasterOp::AddNode {
            node: NodeId(positional(args)?),
            addresses: NodeConfig { peer: positional(args)?, resp: positional(args)? },
        },
        "forget-node" => MasterOp::ForgetNode { node: NodeId(positional(args)?) },
        "create" => MasterOp::CreateGroup {
            group: key(args, "group")?.map(GroupId),
            voters: nodes(key(args, "nodes")?)?,
            weight: key(args, "weight")?.unwrap_or(1),
            rebalance: key(args, "rebalance")?.unwrap_or(false),
        },
        "drain" => MasterOp::DrainGroup { group: GroupId(positional(args)?) },
        "remove" => MasterOp::RemoveGroup { group: GroupId(positional(args)?) },
        "move" => MasterOp::MoveSlots { to: to(args)?, ranges: ranges(args)? },
        "assign" => MasterOp::AssignSlots { to: to(args)?, ranges: ranges(args)? },
        "unassign" => MasterOp::UnassignSlots { ranges: ranges(args)? },
        "members" => MasterOp::SetMembers {
            voters: nodes(key(args, "nodes")?)?,
            group: GroupId(positional(args)?),
        },
        "change" => MasterOp::ChangeMembers {
            add: nodes(key(args, "add")?)?,
            remove: nodes(key(args, "remove")?)?,
            group: GroupId(positional(args)?),
        },
        "replace" => MasterOp::ReplaceNode {
            group: key(args, "group")?.map(GroupId),
            old: NodeId(positional(args)?),
            new: NodeId(positional(args)?),
        },
        "weight" => {
            MasterOp::SetWeight { group: GroupId(positional(args)?), weight: positional(args)? }
        }
        "rebalance" => MasterOp::Rebalance { moves_max: key(args, "max")? },
        "pause" => MasterOp::Pause,
        "resume" => MasterOp::Resume,
        "cancel" => MasterOp::Cancel(match key::<String>(args, "moves")? {
            Some(moves) => Cancel::Moves(list(&moves)?.into_iter().map(MoveId).collect()),
            None => match ranges(args)? {
                ranges if ranges.is_empty() => Cancel::All,
                ranges => Cancel::Slots(ranges),
            },
        }),
        "evacuate" => MasterOp::SetEvacuated { node: NodeId(positional(args)?), evacuated: true },
        "admit" => MasterOp::SetEvacuated { node: NodeId(positional(args)?), evacuated: false },
        "conf" => {
            let members = GroupMembers {
                follows: ConfigNum(key(args, "config")?.ok_or("which config=?")?),
                step: member_step(key::<String>(args, "step")?.as_deref())?,
                voters: nodes(key(args, "nodes")?)?,
                learners: nodes(key(args, "learners")?)?,
            };
            MasterOp::GroupConf { group: GroupId(positional(args)?), members }
        }
        _ => return Err(format!("no command {name}").into()),
    })
}

fn member_step(step: Option<&str>) -> Result<MemberStep> {
    Ok(match step {
        None => MemberStep::Settled,
        Some("joint") => MemberStep::Joint,
        Some("learning") => MemberStep::CatchingUp,
        Some(other) => return Err(format!("no step {other}").into()),
    })
}

fn outcome(refused: Option<&str>) -> Result<MoveOutcome> {
    Ok(match refused {
        None => MoveOutcome::Activated,
        Some("memory") => MoveOutcome::Refused(RefuseReason::OutOfMemory),
        Some("space") => MoveOutcome::Refused(RefuseReason::OutOfSpace),
        Some("progress") => MoveOutcome::Refused(RefuseReason::NoProgress),
        Some("cancelled") => MoveOutcome::Refused(RefuseReason::Cancelled),
        Some(other) => return Err(format!("no reason {other}").into()),
    })
}

/// `nodes=` nodes, all of them voters of the shardmaster and of `groups=` shard groups. `slots=0`: none is
/// assigned.
fn bootstrap(args: &mut ArgumentConsumer) -> Result<ClusterConfig> {
    let count: u64 = key(args, "nodes")?.unwrap_or(3);
    let groups: u32 = key(args, "groups")?.unwrap_or(1);
    let slots: u32 = key(args, "slots")?.unwrap_or(1);
    let seats = |weight| GroupConfig { voters: (1..=count).map(NodeId).collect(), weight };
    let mut config = ClusterConfig {
        num: ConfigNum(0),
        cluster_id: key(args, "cluster")?.unwrap_or_else(|| "test".to_owned()),
        nodes: (1..=count)
            .map(|node| {
                let (peer, resp) = (format!("n{node}:7000"), format!("n{node}:6379"));
                (NodeId(node), NodeConfig { peer, resp })
            })
            .collect(),
        groups: (0..=groups).map(|group| (GroupId(group), seats(group.min(1)))).collect(),
        slots: Vec::new(),
    };
    if slots > 0 {
        config.assign_evenly();
    }
    Ok(config)
}

fn key<T: FromStr<Err: Error + 'static>>(
    args: &mut ArgumentConsumer,
    name: &str,
) -> Result<Option<T>> {
    Ok(args.take_key(name).map(T::from_str).transpose()?)
}

fn positional<T: FromStr<Err: Error + 'static>>(args: &mut ArgumentConsumer) -> Result<T> {
    Ok(args.next_pos().ok_or("an argument is missing")?.parse()?)
}

fn list(text: &str) -> Result<Vec<u64>> {
    let words = text.split('/').filter(|word| !word.is_empty());
    Ok(words.map(u64::from_str).collect::<std::result::Result<_, _>>()?)
}

fn nodes(text: Option<String>) -> Result<Vec<NodeId>> {
    Ok(list(&text.unwrap_or_default())?.into_iter().map(NodeId).collect())
}

fn to(args: &mut ArgumentConsumer) -> Result<GroupId> {
    Ok(GroupId(key(args, "to")?.ok_or("to= which group?")?))
}

fn ranges(args: &mut ArgumentConsumer) -> Result<Ranges> {
    let mut ranges = Vec::new();
    while let Some(range) = args.next_pos() {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        ranges.push((Slot(first.parse()?), Slot(last.parse()?)));
    }
    Ok(ranges)
}

fn show_answer(answer: &Answer) -> String {
    match answer {
        Answer::Master(Ok(done)) => {
            let group = done.group.map_or(String::new(), |group| format!(" group={group}"));
            let count =
                if done.count > 0 { format!(" count={}", done.count) } else { String::new() };
            format!("config={} version={}{group}{count}", done.config, done.version)
        }
        Answer::Master(Err(error)) => format!("error: {error}"),
        Answer::Done { .. } => "OK".to_owned(),
        Answer::Invalid => "invalid".to_owned(),
        other => panic!("{other:?} is no answer of the shardmaster"),
    }
}

fn show_range(first: Slot, last: Slot) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// Up to so many ranges are shown.
const RANGES_SHOWN_MAX: usize = 12;

fn show_ranges(ranges: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = ranges.collect();
    let shown = all[..all.len().min(RANGES_SHOWN_MAX)].join(" ");
    match all.len().saturating_sub(RANGES_SHOWN_MAX) {
        0 => format!("[{shown}]"),
        more => format!("[{shown} and {more} more]"),
    }
}

fn show_config(config: &ClusterConfig) -> String {
    let slots = config.slots.iter();
    format!(
        "config {} nodes={} groups={} slots={}\n",
        config.num,
        config.nodes.len(),
        config.groups.len(),
        show_ranges(slots.map(|r| format!("{}=g{}", show_range(r.first, r.last), r.group)))
    )
}

fn show_change(change: &ConfigChange) -> String {
    let mut output = format!("to config {}\n", change.num);
    for (node, config) in &change.nodes {
        let text = config.as_ref().map_or("gone".to_owned(), |c| format!("{} {}", c.peer, c.resp));
        output += &format!("n{node} {text}\n");
    }
    for (group, config) in &change.groups {
        let text = config.as_ref().map_or("gone".to_owned(), |c| {
            let voters: Vec<String> = c.voters.iter().map(NodeId::to_string).collect();
            format!("voters={} weight={}", voters.join(","), c.weight)
        });
        output += &format!("g{group} {text}\n");
    }
    if !change.slots.is_empty() {
        let each = change.slots.iter().map(|(first, last, group)| {
            let group = group.map_or("nobody".to_owned(), |group| format!("g{group}"));
            format!("{}={group}", show_range(*first, *last))
        });
        output += &format!("slots={}\n", show_ranges(each));
    }
    output
}

/// Of each group: what it is to own and what it owns.
fn show_groups(master: &Shardmaster) -> String {
    let map = master.map();
    let mut output = String::new();
    for (group, seats) in &map.config.groups {
        let target: u32 = map.config.ranges_of(*group).map(SlotRange::count).sum();
        let voters: Vec<String> = seats.voters.iter().map(NodeId::to_string).collect();
        let (weight, voters, owns) = (seats.weight, voters.join(","), map.owners.count(*group));
        output +=
            &format!("g{group} weight={weight} voters={voters} target={target} owns={owns}\n");
    }
    let target: u32 = map.config.slots.iter().map(|range| range.count()).sum();
    if target < u32::from(SLOTS) {
        output += &format!("nobody target={}\n", u32::from(SLOTS) - target);
    }
    output
}

fn show_owners(map: &ClusterMap) -> String {
    let ranges = map.owners.ranges().iter();
    let each = ranges.map(|r| format!("{}=g{}@{}", show_range(r.first, r.last), r.group, r.epoch));
    format!("owners {}\n", show_ranges(each))
}

fn show_move(record: &MoveRecord) -> String {
    let order = record.order;
    let from = order.from.map_or("nobody".to_owned(), |group| format!("g{group}"));
    let mut text = format!(
        "move {} s{} {from} -> g{} epoch={} ordered={}",
        order.id, order.slot, order.to, order.epoch, record.ordered
    );
    if record.cancel {
        text += " cancel";
    }
    if let Some((outcome, at)) = record.ended {
        text += &format!(" {outcome:?} at {at}");
        let owing: Vec<String> = record.owing().map(|group| format!("g{group}")).collect();
        if !owing.is_empty() {
            text += &format!(", not reported by {}", owing.join(" "));
        }
    }
    text + "\n"
}

fn show_waiting(master: &Shardmaster) -> String {
    let mut output = String::new();
    for (slot, waiting) in &master.map().waiting {
        let until = waiting.until.map_or("asked for".to_owned(), |at| at.to_string());
        let (reason, refusals) = (waiting.reason, waiting.refusals);
        output += &format!("s{slot} {reason:?} refusals={refusals} until {until}\n");
    }
    match master.next_due() {
        Some(at) => output + &format!("next entry due at {at}\n"),
        None => output + "no entry due\n",
    }
}

fn show_map(map: &ClusterMap) -> String {
    let evacuated: Vec<String> = map.evacuated.iter().map(NodeId::to_string).collect();
    format!(
        "map version={} config={} unfinished={} moves={} waiting={} paused={} evacuated=[{}]\n",
        map.version,
        map.config.num,
        map.unfinished().count(),
        map.moves.len(),
        map.waiting.len(),
        map.paused,
        evacuated.join(" ")
    )
}

fn show_seats(master: &Shardmaster) -> String {
    let mut output = String::new();
    for (group, seats) in master.seats() {
        let named: Vec<String> = seats
            .named
            .iter()
            .map(|(node, since)| match since {
                None => node.to_string(),
                Some(since) => format!("{node}(not since config {since})"),
            })
            .collect();
        output += &format!("g{group} named=[{}]", named.join(" "));
        if let Some((wanted, _)) = master.map().wanted_members(*group) {
            output += &format!(" wanted by {wanted}");
        }
        if let Some(members) = master.map().reported_members(*group) {
            let list = |nodes: &[NodeId]| {
                nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(" ")
            };
            let (voters, learners) = (list(&members.voters), list(&members.learners));
            let GroupMembers { follows, step, .. } = members;
            output +=
                &format!(" follows={follows} {step:?} voters=[{voters}] learners=[{learners}]");
        }
        output += "\n";
    }
    output
}
