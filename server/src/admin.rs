//! `flotilla admin`: looks at a cluster that runs, and restarts its nodes one after another.
//!
//! It is a client like any other: what it knows it has asked for over the ports for clients, beginning with one
//! node or router. A cluster is **whole** when every node answers, every group has the members that are wanted and a
//! leader, and each follower is there and lacks few entries. As long as it is, the loss of any one node fails no
//! request; so between two restarts it waits for that.

mod cluster;

use crate::config::{AdminArgs, AdminCommand};
use crate::standalone::RunError;
use cluster::{Entry, Member, Picture};
use std::io::{self, Write};
use std::process::Command;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often the cluster is looked at while something is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs the command.
///
/// # Errors
/// In one sentence: what is not so, or not in time.
pub fn run(args: AdminArgs) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| RunError::Sentence(error.to_string()))?;
    let done = runtime.block_on(async {
        let entry = Entry::parse(&args.at)?;
        let patience = Duration::from_secs(args.timeout);
        match args.command {
            AdminCommand::Status => status(&entry).await,
            AdminCommand::Wait => wait(&entry, patience).await.map(drop),
            AdminCommand::RollingRestart(args) => {
                rolling_restart(&entry, &args.run, patience).await
            }
        }
    });
    done.map_err(RunError::Sentence)
}

/// Nobody may be reading.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

async fn status(entry: &Entry) -> Result<(), String> {
    let picture = Picture::take(entry).await?;
    for line in picture.lines() {
        say(&line);
    }
    match picture.lacks().first() {
        None => Ok(()),
        Some(_) => Err("the cluster is not whole".into()),
    }
}

/// Until the cluster is whole.
async fn wait(entry: &Entry, patience: Duration) -> Result<Picture, String> {
    let end = Instant::now() + patience;
    let mut told = None;
    loop {
        let looked = match Picture::take(entry).await {
            Ok(picture) => match picture.lacks().into_iter().next() {
                None => return Ok(picture),
                Some(lack) => lack,
            },
            Err(error) => error,
        };
        if Instant::now() >= end {
            let seconds = patience.as_secs();
            return Err(format!("the cluster is not whole after {seconds} seconds: {looked}"));
        }
        if told.as_ref() != Some(&looked) {
            say(&format!("waiting: {looked}"));
            told = Some(looked);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Each node in turn, those that lead least first. Stops at the first that does not come back: the others serve on.
async fn rolling_restart(entry: &Entry, command: &str, patience: Duration) -> Result<(), String> {
    let mut picture = wait(entry, patience).await?;
    let mut nodes: Vec<(usize, u64)> =
        picture.members.iter().map(|member| (member.leads, member.node)).collect();
    nodes.sort_unstable();
    for (_, node) in &nodes {
        let before = picture.member(*node).ok_or(format!("node {node} has gone meanwhile"))?;
        say(&format!("node {node} at {}: restarting", before.address()));
        restart(before, command)?;
        picture = wait_for_another(entry, before, patience).await?;
        say(&format!("node {node}: serves again, and the cluster is whole"));
    }
    say(&format!("{} nodes were restarted", nodes.len()));
    Ok(())
}

fn restart(member: &Member, command: &str) -> Result<(), String> {
    let ended = Command::new("sh")
        .args(["-c", command])
        .env("FLOTILLA_NODE", member.node.to_string())
        .env("FLOTILLA_HOST", &member.host)
        .env("FLOTILLA_PORT", member.port.to_string())
        .status();
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!(
            "the command for node {} ended with {status}: look at that node, nothing more is restarted",
            member.node
        )),
        Err(error) => Err(format!("the command for node {} cannot be run: {error}", member.node)),
    }
}

/// Until the cluster is whole, and that node's process is not the one that it was.
async fn wait_for_another(
    entry: &Entry,
    before: &Member,
    patience: Duration,
) -> Result<Picture, String> {
    let (node, end) = (before.node, Instant::now() + patience);
    loop {
        let picture = wait(entry, end.saturating_duration_since(Instant::now())).await?;
        if picture.member(node).is_some_and(|now| now.is_another_process(before)) {
            return Ok(picture);
        }
        if Instant::now() >= end {
            return Err(format!(
                "node {node} is the process that it was before the command: give one with --run that \
                 restarts it"
            ));
        }
        sleep(LOOK_EVERY).await;
    }
}
