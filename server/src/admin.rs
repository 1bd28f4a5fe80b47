//! `flotilla admin`: looks at a cluster that runs, changes it, and restarts its nodes one after another.
//!
//! It is a client like any other: what it knows it has asked for over the ports for clients, beginning with one
//! node or router, and what it changes the commands of CLUSTER do. When the one that it asks is away it asks another. A cluster is
//! **whole** when every node answers, every group has the members that are wanted and a leader, and each follower is there
//! and lacks few entries. As long as it is, the loss of any one node fails no request; so between two restarts it
//! waits for that.

mod cluster;
mod contact;
mod jobs;
mod moves;
mod restart;
mod screen;

use crate::config::{AdminArgs, AdminCommand};
use crate::random;
use crate::standalone::RunError;
use cluster::{Picture, View};
use contact::Contact;
use router::talk::Said;
use screen::Screen;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often the cluster is looked at while something is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Looks without news after which another one is asked: this one may be cut off from the others.
const SAME_LOOKS_MAX: u32 = 10;
/// How long is waited without --timeout for what takes no longer if there is more data.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long nobody may answer while moves are waited for, for which there is no limit.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Runs the command.
///
/// # Errors
/// In one sentence: what is not so, not in time, or refused.
pub fn run(args: AdminArgs) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| RunError::Sentence(error.to_string()))?;
    let done = runtime.block_on(async {
        let mut job = Job::new(&args)?;
        let done = match &args.command {
            AdminCommand::Status => status(&mut job).await,
            AdminCommand::Wait => wait(&mut job).await,
            AdminCommand::AddGroup(args) => jobs::add_group(&mut job, args).await,
            AdminCommand::Drain(args) => jobs::drain(&mut job, args).await,
            AdminCommand::Rebalance(args) => jobs::rebalance(&mut job, args).await,
            AdminCommand::Replace(args) => jobs::replace(&mut job, args).await,
            AdminCommand::Watch(args) => watch(&mut job, args.follow).await,
            AdminCommand::RollingRestart(args) => {
                restart::rolling_restart(&mut job, &args.run).await
            }
        };
        job.screen.end();
        done
    });
    done.map_err(RunError::Sentence)
}

async fn status(job: &mut Job) -> Result<(), String> {
    let picture = Picture::take(&mut job.contact).await?;
    picture.lines().iter().for_each(|line| job.screen.say(line));
    job.screen.object(&picture);
    match picture.lacks.is_empty() {
        true => Ok(()),
        false => Err("the cluster is not whole".into()),
    }
}

async fn wait(job: &mut Job) -> Result<(), String> {
    let picture = job.wait_until_whole(Instant::now() + job.patience()).await?;
    job.screen.object(&picture);
    Ok(())
}

/// How often a command may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// With a name of its own, under which it is carried out once however often it comes.
    Once,
    /// It does no harm twice.
    Again,
}

/// What a subcommand works with.
struct Job {
    contact: Contact,
    screen: Screen,
    /// --timeout.
    limit: Option<Duration>,
    /// Looks in a row that brought no news.
    same_looks: u32,
}

impl Job {
    fn new(args: &AdminArgs) -> Result<Job, String> {
        let contact = Contact::parse(&args.at)?;
        let limit = args.timeout.map(Duration::from_secs);
        let is_watch = matches!(args.command, AdminCommand::Watch(_));
        let screen = Screen::new(args.json, is_watch);
        Ok(Job { contact, screen, limit, same_looks: 0 })
    }

    /// How long is waited, each time, for what takes no longer if there is more data.
    fn patience(&self) -> Duration {
        self.limit.unwrap_or(PATIENCE)
    }

    /// Until the next look.
    async fn rest(&mut self, is_news: bool) {
        self.same_looks = if is_news { 0 } else { self.same_looks + 1 };
        if self.same_looks == SAME_LOOKS_MAX {
            self.contact.turn();
            self.same_looks = 0;
        }
        sleep(LOOK_EVERY).await;
    }

    /// Has a command carried out: tries until it is known that it was, or is refused for good.
    async fn order(&mut self, words: &[&str], sent: Sent) -> Result<Said, String> {
        if self.contact.is_new() {
            // Whoever was named and is not there is not waited for; and it is known then who else may be asked.
            View::take(&mut self.contact).await?;
        }
        let id = random::hex::<16>().map_err(|error| format!("no random number: {error}"))?;
        let mut words = words.to_vec();
        if sent == Sent::Once {
            words.extend(["REQUESTID", &id]);
        }
        let end = Instant::now() + self.patience();
        loop {
            let failure = match self.contact.ask(&[&words]).await {
                Ok(mut answers) => return answers.pop().ok_or("no answer".into()),
                Err(failure) if failure.is_for_now() => failure,
                Err(failure) => return Err(failure.to_string()),
            };
            if Instant::now() >= end {
                let seconds = self.patience().as_secs();
                return Err(format!(
                    "nobody says that it is done, after {seconds} seconds: {failure}"
                ));
            }
            self.screen.waiting(&failure.to_string());
            self.contact.turn();
            sleep(LOOK_EVERY).await;
        }
    }

    /// Until the cluster is as wanted.
    ///
    /// # Errors
    /// What it lacks at the end.
    async fn wait_for<T>(
        &mut self,
        end: Instant,
        judge: impl Fn(Picture) -> Result<T, String>,
    ) -> Result<T, String> {
        let mut last = String::new();
        loop {
            let lack = match Picture::take(&mut self.contact).await.and_then(&judge) {
                Ok(wanted) => return Ok(wanted),
                Err(lack) => lack,
            };
            if Instant::now() >= end {
                return Err(lack);
            }
            self.screen.waiting(&lack);
            self.rest(lack != last).await;
            last = lack;
        }
    }

    async fn wait_until_whole(&mut self, end: Instant) -> Result<Picture, String> {
        let seconds = self.patience().as_secs();
        let whole = |picture: Picture| match picture.lacks.first() {
            None => Ok(picture),
            Some(lack) => Err(lack.clone()),
        };
        let waited = self.wait_for(end, whole).await;
        waited.map_err(|lack| format!("the cluster is not whole after {seconds} seconds: {lack}"))
    }

    /// Until a look at moves has a verdict, of somebody who knows this configuration.
    async fn wait_for_moves(
        &mut self,
        config: u64,
        judge: impl Fn(&View) -> Option<Result<(), String>>,
    ) -> Result<View, String> {
        let end = self.limit.map(|limit| Instant::now() + limit);
        let (mut last, mut heard) = (String::new(), Instant::now());
        loop {
            let looked = View::take(&mut self.contact).await;
            match &looked {
                Ok(view) => {
                    heard = Instant::now();
                    self.screen.moves(&view.moves);
                }
                Err(why) => self.screen.waiting(why),
            }
            let left = match looked {
                Ok(view) if view.moves.config < config => {
                    format!("{} does not know of configuration {config} yet", view.asked)
                }
                Ok(view) => match judge(&view) {
                    Some(Ok(())) => return Ok(view),
                    // Somebody may have resumed them, and this one has not heard of it yet.
                    Some(Err(stays)) if stays != last => stays,
                    Some(Err(stays)) => return Err(stays),
                    None => view.moves.line(),
                },
                Err(why) => why,
            };
            if end.is_some_and(|end| Instant::now() >= end) {
                let seconds = self.limit.unwrap_or_default().as_secs();
                return Err(format!("{left}, after {seconds} seconds; it goes on by itself"));
            }
            if heard.elapsed() >= SILENCE_MAX {
                return Err(format!("nobody answers any more: {left}"));
            }
            if !self.screen.is_wanted() {
                return Err("nobody reads what it says any more".into());
            }
            self.rest(left != last).await;
            last = left;
        }
    }
}

/// Whether what is wanted of moves is so, or will not be by itself.
fn verdict(view: &View, is_done: bool) -> Option<Result<(), String>> {
    if is_done { Some(Ok(())) } else { view.moves.stays().map(Err) }
}

/// Shows moves until none is left.
async fn watch(job: &mut Job, follow: bool) -> Result<(), String> {
    let is_over = |view: &View| verdict(view, view.moves.slots_to_move == 0);
    job.wait_for_moves(0, |view| if follow { None } else { is_over(view) }).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers one command for each of these on a connection of its own, then tells what was asked.
    async fn play(listener: TcpListener, answers: &[&str]) -> Vec<String> {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut words = vec![0; 4096];
            let length = stream.read(&mut words).await.expect("a command");
            words.truncate(length);
            asked.push(String::from_utf8(words).expect("text"));
            stream.write_all(answer.as_bytes()).await.expect("an open connection");
        }
        asked
    }

    #[tokio::test]
    async fn what_changes_the_cluster_is_sent_again_under_the_same_name_and_elsewhere() {
        let first = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let second = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let place = |listener: &TcpListener| listener.local_addr().expect("bound").to_string();
        let mut contact = Contact::parse(&place(&first)).expect("a place");
        contact.learn(&format!("b {}@1 master -", place(&second)));
        let screen = Screen::new(true, false);
        let mut job = Job { contact, screen, limit: None, same_looks: 0 };
        // The first one ends without an answer, the second does not know the outcome.
        let (answer, at_first, at_second) = tokio::join!(
            job.order(&["CLUSTER", "GROUP", "DRAIN", "2"], Sent::Once),
            play(first, &["", ":7\r\n"]),
            play(second, &["-TIMEOUT the shardmaster did not tell the outcome in time\r\n"]),
        );
        assert_eq!(answer, Ok(Said::Integer(7)));
        assert!(at_first[0].contains("REQUESTID"), "{at_first:?}");
        assert_eq!(at_first[1], at_first[0]);
        assert_eq!(at_second, at_first[..1]);
    }
}
