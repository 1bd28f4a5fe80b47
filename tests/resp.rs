//! What clients send and what they get: scripts of `golden/resp`.
//!
//! Recorded anew with `UPDATE_GOLDENFILES=1 cargo test -p tests --test resp`.

use bytes::Bytes;
use goldenscript::Runner;
use harness::redirect_script::RedirectScript;
use harness::resp_script::{RefusalScript, ScannerScript};
use router::commands::{COMMANDS, Call, Local, parse};
use router::reply::Reply;

fn run_scripts<R: Runner + Default>(folder: &str) {
    let dir = format!("{}/golden/resp/{folder}", env!("CARGO_MANIFEST_DIR"));
    let mut scripts: Vec<_> =
        std::fs::read_dir(&dir).unwrap().map(|script| script.unwrap().path()).collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "no scripts in {dir}");
    for script in scripts {
        println!("{}", script.display());
        goldenscript::run(&mut R::default(), &script).unwrap();
    }
}

#[test]
fn scanner_scripts() {
    run_scripts::<ScannerScript>("scanner");
}

#[test]
fn refusal_scripts() {
    run_scripts::<RefusalScript>("refusals");
}

#[test]
fn redirect_scripts() {
    run_scripts::<RedirectScript>("redirects");
}

/// HELP of a container names every subcommand that is served, and no other.
#[test]
fn help_lists_what_is_served() {
    for container in COMMANDS.iter().filter(|spec| !spec.subcommands.is_empty()) {
        let mut request = vec![Bytes::from(container.name), Bytes::from("help")];
        let Ok((_, Call::Local(Local::Reply(Reply::Array(lines))))) = parse(&mut request) else {
            panic!("{} has no HELP", container.name)
        };
        let listed: Vec<String> = lines
            .iter()
            .filter_map(|line| match line {
                Reply::Simple(syntax) => syntax.split(' ').next().map(str::to_lowercase),
                _ => None,
            })
            .filter(|word| !word.starts_with('('))
            .collect();
        // The older name of REPLICAS is not told, as in Redis.
        let mut served: Vec<_> = container
            .subcommands
            .iter()
            .map(|spec| spec.last_name())
            .filter(|name| *name != "slaves")
            .collect();
        served.sort_unstable();
        let mut sorted = listed.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, served, "{}", container.name);
    }
}
