//! `flotilla admin rolling-restart`

use super::cluster::{Member, Picture};
use super::{Job, LOOK_EVERY};
use serde::Serialize;
use std::io;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often it is looked whether the command has ended.
const COMMAND_LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Serialize)]
struct Restarted {
    restarted: Vec<u64>,
}

/// Each node in turn, those that lead least first. Stops at the first that does not come back: the others serve on.
pub(super) async fn rolling_restart(job: &mut Job, command: &str) -> Result<(), String> {
    let mut picture = job.wait_until_whole(Instant::now() + job.patience()).await?;
    let mut nodes: Vec<(usize, u64)> =
        picture.members.iter().map(|member| (member.leads.len(), member.node)).collect();
    nodes.sort_unstable();
    let mut restarted = Vec::new();
    for (_, node) in nodes {
        let before = picture.member(node).ok_or(format!("node {node} has gone meanwhile"))?;
        job.screen.say(&format!("node {node} at {}: restarting", before.address));
        restart(job, before, command).await?;
        picture = wait_for_another(job, before).await?;
        job.screen.say(&format!("node {node}: serves again, and the cluster is whole"));
        restarted.push(node);
    }
    job.screen.say(&format!("{} nodes were restarted", restarted.len()));
    job.screen.object(&Restarted { restarted });
    Ok(())
}

async fn restart(job: &Job, member: &Member, command: &str) -> Result<(), String> {
    let node = member.node;
    let mut words = Command::new("sh");
    words
        .args(["-c", command])
        .env("FLOTILLA_NODE", node.to_string())
        .env("FLOTILLA_HOST", &member.place.host)
        .env("FLOTILLA_PORT", member.place.port.to_string());
    if job.screen.is_for_machines() {
        words.stdout(Stdio::from(io::stderr()));
    }
    let cannot = |error: io::Error| format!("the command for node {node} cannot be run: {error}");
    let mut child = words.spawn().map_err(cannot)?;
    let seconds = job.patience().as_secs();
    match ended(&mut child, Instant::now() + job.patience()).await.map_err(cannot)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!(
            "the command for node {node} ended with {status}: look at that node, nothing more is restarted"
        )),
        None => Err(format!(
            "the command for node {node} has not ended after {seconds} seconds, its shell was killed, and \
             what it began may go on: look at that node, nothing more is restarted"
        )),
    }
}

/// How a command ended; None: not by then, and it was killed.
async fn ended(child: &mut Child, end: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        sleep(COMMAND_LOOK_EVERY).await;
    }
}

/// Until the cluster is whole, and that node's process is not the one that it was.
async fn wait_for_another(job: &mut Job, before: &Member) -> Result<Picture, String> {
    let (node, end) = (before.node, Instant::now() + job.patience());
    loop {
        let picture = job.wait_until_whole(end).await?;
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
