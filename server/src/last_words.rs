//! What a panic inside a library says before the process ends.
//!
//! redb verifies the pages of a file when it is opened; it trusts what it reads later, and a page that
//! has changed on the disk meanwhile may be a panic in it: an index out of range for example. In the program
//! that is the end of the process, as it must be: a page that makes no sense is not gone on with. But
//! whoever runs the node has to know which file it was, and what to do. So threads say what file they are
//! at, and [`install`] has that told, as one sentence, as the last thing.

use std::cell::RefCell;
use std::io::Write;
use std::marker::PhantomData;
use std::path::Path;

/// Where a file that was read is not as it was written.
pub const WHAT_TO_DO: &str =
    "run `flotilla inspect` on the directory before the next start, and check the disk";

/// Where a node cannot start on a file.
pub const HOW_TO_GO_ON: &str = "the others serve on while they are a majority; check the disk, `flotilla inspect` says \
     what else is damaged, and where it cannot be mended `CLUSTER REPLACE` puts an empty node in the place of this one";

thread_local! {
    /// The file that this thread is at, as a sentence names it.
    static AT: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// As long as this is there, the thread is at a file. Of this thread, so it does not leave it.
#[must_use]
#[derive(Debug)]
pub struct At(PhantomData<*const ()>);

impl At {
    /// The thread reads or writes a file. `what`: `log` or `state`.
    pub fn file(what: &str, path: &Path) -> At {
        AT.with_borrow_mut(|at| at.push(format!("{what} {}", path.display())));
        At(PhantomData)
    }
}

impl Drop for At {
    fn drop(&mut self) {
        AT.with_borrow_mut(Vec::pop);
    }
}

/// From now on a panic at a file ends the process with exit code 1 and a sentence. Any other panic is as
/// it was before.
pub fn install() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        // A panic while a thread says where it is would be one in here.
        let at = AT.try_with(|at| at.try_borrow().ok()?.last().cloned()).ok().flatten();
        if let Some(at) = at {
            // Nobody may read it any more.
            let _ = writeln!(std::io::stderr(), "flotilla: {}", sentence(&at, &panic.to_string()));
            std::process::exit(1);
        }
    }));
}

fn sentence(at: &str, panic: &str) -> String {
    let panic = panic.split_whitespace().collect::<Vec<_>>().join(" ");
    format!(
        "the {at} has what its library cannot go on with ({panic}): as a rule it is damaged, by the disk or \
         the memory of this machine; nothing of that was answered, and the others serve on while they are a \
         majority; {WHAT_TO_DO}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_the_innermost_one_as_long_as_a_thread_is_at_it() {
        let now = || AT.with_borrow(|at| at.last().cloned());
        assert_eq!(now(), None);
        let log = At::file("log", Path::new("/a/log.redb"));
        {
            let _state = At::file("state", Path::new("/a/state.redb"));
            assert_eq!(now().as_deref(), Some("state /a/state.redb"));
        }
        assert_eq!(now().as_deref(), Some("log /a/log.redb"));
        drop(log);
        assert_eq!(now(), None);
    }

    #[test]
    fn the_sentence_is_one_line() {
        let told = sentence("log /a/log.redb", "panicked at x.rs:1:2:\nrange end 7\nout of range");
        assert!(told.starts_with("the log /a/log.redb has what its library cannot go on with (panicked at x.rs:1:2: range end 7 out of range): "), "{told}");
        assert!(!told.contains('\n'));
    }
}
