//! The jobs that change a cluster: a command of CLUSTER each, and then what it causes is waited for.

use super::cluster::{Picture, View};
use super::moves::count;
use super::{Job, Sent, verdict};
use crate::config::{AddGroupArgs, DrainArgs, RebalanceArgs, ReplaceArgs};
use router::talk::Said;
use serde::Serialize;
use tokio::time::Instant;

/// An answer that is of no use.
const UNFIT: &str = "what the cluster answers makes no sense: is it of another version?";

fn number(said: &Said) -> Result<u64, String> {
    said.number().ok_or(UNFIT.into())
}

/// The number of the newest configuration, of the shardmaster itself.
async fn newest_config(job: &mut Job) -> Result<u64, String> {
    let config = job.order(&["CLUSTER", "CONFIG"], Sent::Again).await?;
    number(config.field("config").ok_or(UNFIT)?)
}

fn is_balanced(view: &View) -> Option<Result<(), String>> {
    verdict(view, view.moves.slots_to_move == 0)
}

#[derive(Serialize)]
struct Made {
    group: u64,
    config: u64,
    leader: u64,
    slots: Option<u64>,
}

/// Makes a group, and waits until it has a leader and, with --rebalance, its share.
pub(super) async fn add_group(job: &mut Job, args: &AddGroupArgs) -> Result<(), String> {
    let weight = args.weight.to_string();
    let mut words = vec!["CLUSTER", "GROUP", "CREATE", "NODES"];
    words.extend(args.nodes.iter().map(String::as_str));
    words.extend(["WEIGHT", &weight]);
    words.extend(args.rebalance.then_some("REBALANCE"));
    let made = job.order(&words, Sent::Once).await?;
    let group = number(made.field("group").ok_or(UNFIT)?)?;
    let config = number(made.field("config").ok_or(UNFIT)?)?;
    job.screen.say(&format!("group {group} is made, by configuration {config}"));
    let seconds = job.patience().as_secs();
    let end = Instant::now() + job.patience();
    let serves = |picture: Picture| {
        let found = picture.groups.iter().find(|known| known.id == group);
        match found.map(|found| (found.state.as_str(), found.leader)) {
            Some(("settled", Some(leader))) => Ok(leader),
            Some(("settled", None)) => Err(format!("group {group} has no leader yet")),
            Some((state, _)) => Err(format!("group {group} is {state}")),
            None => Err(format!("group {group} is not known everywhere yet")),
        }
    };
    let leader = job.wait_for(end, serves).await.map_err(|lack| {
        format!("group {group} is made, but after {seconds} seconds it does not serve: {lack}")
    })?;
    job.screen.say(&format!("group {group} serves, led by node {leader}"));
    let mut slots = None;
    if args.rebalance {
        let view = job.wait_for_moves(config, is_balanced).await?;
        slots = view.group(group).and_then(|group| group.slots);
        let share = count(slots.unwrap_or_default(), "slot");
        job.screen.say(&format!("group {group} has its share, {share}"));
    }
    job.screen.object(&Made { group, config, leader, slots });
    Ok(())
}

#[derive(Serialize)]
struct Drained {
    group: u64,
    config: u64,
    removed: bool,
}

/// Has a group give its slots away, and removes it.
pub(super) async fn drain(job: &mut Job, args: &DrainArgs) -> Result<(), String> {
    let (group, name) = (u64::from(args.group), args.group.to_string());
    let mut config = number(&job.order(&["CLUSTER", "GROUP", "DRAIN", &name], Sent::Once).await?)?;
    job.screen.say(&format!("group {group} gives its slots away, by configuration {config}"));
    let is_empty = |view: &View| {
        let known = view.group(group);
        known.is_none_or(|group| group.slots.unwrap_or(view.moves.slots_to_move) == 0)
    };
    job.wait_for_moves(config, |view| verdict(view, is_empty(view))).await?;
    job.screen.say(&format!("group {group} owns no slots any more"));
    if !args.keep {
        config = number(&job.order(&["CLUSTER", "GROUP", "REMOVE", &name], Sent::Once).await?)?;
        job.screen.say(&format!("group {group} is removed, by configuration {config}"));
    }
    job.screen.object(&Drained { group, config, removed: !args.keep });
    Ok(())
}

/// Slots that would go from one group to another, and why.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Step {
    slots: String,
    /// None: nobody has them.
    from: Option<u64>,
    to: u64,
    reason: String,
}

impl Step {
    fn of(said: &Said) -> Option<Step> {
        let text = |name| Some(said.field(name)?.text()?.to_owned());
        let number = |name| said.field(name)?.number();
        let (slots, reason) = (text("slots")?, text("reason")?);
        Some(Step { slots, from: number("from"), to: number("to")?, reason })
    }

    fn line(&self) -> String {
        let from = self.from.map_or("nobody".into(), |group| format!("group {group}"));
        format!("slots {}: {from} -> group {}, since {}", self.slots, self.to, self.reason)
    }
}

#[derive(Serialize)]
struct Plan {
    steps: Vec<Step>,
}

#[derive(Serialize)]
struct Balanced {
    config: u64,
    slots: u64,
}

/// Gives every group its share, or shows what that would move.
pub(super) async fn rebalance(job: &mut Job, args: &RebalanceArgs) -> Result<(), String> {
    let mut words = vec!["CLUSTER", "REBALANCE"];
    // What is asked for by other shares follows from what slots hold, and has no name to be sent again by: a second
    // time it moves what the first has left.
    let by_slots = args.by == "slots";
    if !by_slots {
        words.extend(["BY", &args.by]);
    }
    if args.dry_run {
        words.push("DRYRUN");
        let plan = job.order(&words, Sent::Again).await?;
        let steps: Option<Vec<Step>> = plan.items().iter().map(Step::of).collect();
        let steps = steps.ok_or(UNFIT)?;
        steps.iter().for_each(|step| job.screen.say(&step.line()));
        if steps.is_empty() {
            job.screen
                .say(&format!("nothing would move: every group has its share of {}", args.by));
        }
        job.screen.object(&Plan { steps });
        return Ok(());
    }
    let sent = if by_slots { Sent::Once } else { Sent::Again };
    let slots = number(&job.order(&words, sent).await?)?;
    let config = newest_config(job).await?;
    let line = format!("{} to move, by configuration {config}", count(slots, "slot"));
    job.screen.say(&line);
    job.wait_for_moves(config, is_balanced).await?;
    job.screen.say(&format!("every group has its share of {}", args.by));
    job.screen.object(&Balanced { config, slots });
    Ok(())
}

#[derive(Serialize)]
struct Replaced<'a> {
    old: &'a str,
    new: &'a str,
    config: u64,
    forgotten: bool,
}

/// Gives every seat of a node to another.
pub(super) async fn replace(job: &mut Job, args: &ReplaceArgs) -> Result<(), String> {
    let (old, new) = (args.old.as_str(), args.new.as_str());
    job.order(&["CLUSTER", "REPLACE", old, new], Sent::Once).await?;
    let config = newest_config(job).await?;
    job.screen.say(&format!("node {new} gets the seats of node {old}, by configuration {config}"));
    let seconds = job.patience().as_secs();
    let end = Instant::now() + job.patience();
    let is_done = |picture: Picture| {
        if picture.moves.config < config {
            return Err(format!("configuration {config} is not known everywhere yet"));
        }
        picture.replaced_lacks(old, new).map_or(Ok(()), Err)
    };
    job.wait_for(end, is_done).await.map_err(|lack| {
        format!(
            "node {old} is not replaced after {seconds} seconds, which goes on by itself: {lack}"
        )
    })?;
    job.screen.say(&format!("node {old} has no seat any more, node {new} has them"));
    if args.forget {
        job.order(&["CLUSTER", "FORGET", old], Sent::Again).await?;
        job.screen.say(&format!("node {old} is forgotten"));
    }
    job.screen.object(&Replaced { old, new, config, forgotten: args.forget });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_with_its_reason() {
        let text = |text: &str| Said::Text(text.into());
        let step = |from| {
            Step::of(&Said::Items(vec![
                text("slots"),
                text("5-9"),
                text("from"),
                from,
                text("to"),
                Said::Integer(3),
                text("reason"),
                text("it is so"),
            ]))
        };
        let line = step(Said::Integer(1)).map(|step| step.line());
        assert_eq!(line.as_deref(), Some("slots 5-9: group 1 -> group 3, since it is so"));
        let line = step(Said::Nil).map(|step| step.line());
        assert_eq!(line.as_deref(), Some("slots 5-9: nobody -> group 3, since it is so"));
        assert_eq!(Step::of(&Said::Nil), None);
    }
}
