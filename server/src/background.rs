//! Threads that no client waits for: checkpoints, snapshots, what is deleted.
//!
//! Where there are fewer processors than threads that want one, these would take turns with the thread that serves
//! clients and the one that writes the log, for as long as a checkpoint takes.

use std::io;
use std::thread::{Builder, JoinHandle};

/// How nice such a thread is: it gets two thirds of what another one gets that wants the same processor. More
/// would let checkpoints fall behind on a machine that is always busy.
const NICE: i32 = 2;

/// Starts such a thread.
///
/// # Errors
/// If there can be no other thread.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).spawn(move || {
        // Of this thread alone; elsewhere it would be of the process. If it is refused, the thread is like others.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::nice(NICE);
        work();
    })
}
