//! A way between processes on which connections stall, and break in the middle of what they carry.

use raft_core::random::Random;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A connection lives for so long, in milliseconds.
const LIFE_MS: (u64, u64) = (200, 3000);
/// One piece in so many waits, for so many milliseconds at most.
const STALLS_ONE_IN: u64 = 20;
const STALL_MS_MAX: u64 = 40;
/// How often a connection that is silent looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
struct Weather {
    /// Nothing is lost any more.
    calm: AtomicBool,
    broken: AtomicU64,
}

/// Ways from ports of this machine to others of it.
#[derive(Clone, Debug, Default)]
pub struct LossyWays(Arc<Weather>);

impl LossyWays {
    /// Carries what comes to one port to another one, for as long as the test runs.
    pub fn open(&self, from: u16, to: u16) {
        let listener = TcpListener::bind(("127.0.0.1", from)).expect("a port of the test's own");
        let weather = Arc::clone(&self.0);
        thread::spawn(move || {
            let mut random = Random::new(u64::from(from));
            for near in listener.incoming() {
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(("127.0.0.1", to))) else {
                    continue;
                };
                carry_both(&weather, near, far, random.draw());
            }
        });
    }

    /// From now on nothing stalls or breaks.
    pub fn heal(&self) {
        self.0.calm.store(true, Ordering::Relaxed);
    }

    /// Connections that were broken so far.
    pub fn broken(&self) -> u64 {
        self.0.broken.load(Ordering::Relaxed)
    }
}

fn carry_both(weather: &Arc<Weather>, near: TcpStream, far: TcpStream, seed: u64) {
    let mut random = Random::new(seed);
    let end = Instant::now() + Duration::from_millis(random.between(LIFE_MS.0, LIFE_MS.1));
    let both = near.try_clone().and_then(|again| Ok((again, far.try_clone()?)));
    let Ok((near_again, far_again)) = both else { return };
    for (from, to) in [(near, far), (far_again, near_again)] {
        let (weather, random) = (Arc::clone(weather), Random::new(random.draw()));
        thread::spawn(move || carry(&weather, from, to, random, end));
    }
}

fn carry(
    weather: &Weather,
    mut from: TcpStream,
    mut to: TcpStream,
    mut random: Random,
    end: Instant,
) {
    let mut piece = [0; 4096];
    from.set_read_timeout(Some(LOOK)).expect("a time that is not 0");
    let _ = to.set_nodelay(true);
    loop {
        let calm = weather.calm.load(Ordering::Relaxed);
        if !calm && Instant::now() > end {
            weather.broken.fetch_add(1, Ordering::Relaxed);
            break;
        }
        let count = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => break,
        };
        if !calm && random.below(STALLS_ONE_IN) == 0 {
            thread::sleep(Duration::from_millis(random.below(STALL_MS_MAX)));
        }
        if to.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    // The other direction ends with it.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
