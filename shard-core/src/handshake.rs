//! How two processes prove to each other that they belong together, before anything else is read.
//!
//! ```text
//! dialer                                   listener
//!   HELLO     versions, purpose, who, nonce  ->
//!                                         <-  CHALLENGE  version, who, nonce, HMAC("listener", all so far)
//!   PROOF     HMAC("dialer", all so far)     ->
//!                                         <-  WELCOME, or at any step REFUSED with a reason
//! ```
//!
//! Both ends prove that they know the cluster's secret, over every byte exchanged: neither purpose,
//! version nor identity can be changed on the way, an old transcript is worth nothing (each end's
//! nonce is new), and the two labels make an end's own proof useless when it is sent back to it.
//! No proof of a dialer is asked before the listener's own identity fits what the dialer wants.
//!
//! What this does not do: it encrypts and authenticates nothing that comes afterwards (frames have a
//! CRC, not a MAC), so it holds off strangers and mistakes, not somebody who can change bytes on the
//! cluster's network. The listener proves first, so a guessable secret can be searched for offline:
//! the secret must be random.
//!
//! Every message stands behind its length as a big-endian u16 of at most [`MESSAGE_BYTES_MAX`]: its
//! first byte is then at most 4, so HTTP, RESP and TLS are recognised from their first two bytes.
//! The cores have no randomness: nonces and epochs are arguments.

use crate::cluster_config::CLUSTER_ID_BYTES_MAX;
use hmac::{Hmac, KeyInit, Mac};
use raft_core::types::NodeId;
use sha2::Sha256;
use std::fmt;

/// The newest protocol version this program speaks.
pub const VERSION_MAX: u8 = 4;
/// The oldest one it still speaks.
pub const VERSION_MIN: u8 = 2;
/// From this version on nodes tell each other what their wall clocks show.
pub const CLOCK_VERSION: u8 = 3;
/// From this version on nodes know writes with tokens.
pub const TOKEN_VERSION: u8 = 3;
/// From this version on nodes take rows of a slot that moves in parts, in messages and in their logs.
pub const PARTS_VERSION: u8 = 4;
/// Upper bound of one handshake message, without its length prefix.
pub const MESSAGE_BYTES_MAX: usize = 1024;
/// Bytes of the length prefix.
pub const PREFIX_BYTES: usize = 2;
/// Both ends give up a handshake that has not ended after this long.
pub const HANDSHAKE_TIMEOUT_MS: u64 = 5_000;

/// A number used once: 32 bytes from the operating system's random source.
pub type Nonce = [u8; 32];

const MAGIC: [u8; 4] = *b"FLTL";
const HELLO: u8 = 1;
const CHALLENGE: u8 = 2;
const PROOF: u8 = 3;
const WELCOME: u8 = 4;
const REFUSED: u8 = 5;

const DIALER_LABEL: &[u8] = b"flotilla handshake: dialer\0";
const LISTENER_LABEL: &[u8] = b"flotilla handshake: listener\0";
const PROOF_BYTES: usize = 32;

/// What every process of a cluster knows. Printing it does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes the bytes as they are. They should be random, 32 or more.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Secret {
        Secret(bytes.into())
    }

    fn mac(&self, label: &[u8], transcript: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(label);
        mac.update(transcript);
        mac
    }

    /// A label is for one use alone.
    pub(crate) fn prove(&self, label: &[u8], transcript: &[u8]) -> [u8; PROOF_BYTES] {
        self.mac(label, transcript).finalize().into_bytes().into()
    }

    /// Compares in constant time.
    pub(crate) fn verify(&self, label: &[u8], transcript: &[u8], proof: &[u8]) -> bool {
        self.mac(label, transcript).verify_slice(proof).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a process says of itself in every handshake, as dialer and as listener.
#[derive(Clone, Debug)]
pub struct Credentials {
    cluster_id: String,
    secret: Secret,
    epoch: u64,
}

impl Credentials {
    /// `epoch` is drawn at random once per process start. The cluster id has 1 to
    /// [`CLUSTER_ID_BYTES_MAX`] bytes.
    pub fn new(
        cluster_id: impl Into<String>,
        secret: Secret,
        epoch: u64,
    ) -> Result<Credentials, HandshakeError> {
        let cluster_id = cluster_id.into();
        if cluster_id.is_empty() || cluster_id.len() > CLUSTER_ID_BYTES_MAX {
            return Err(HandshakeError::ClusterIdLength(cluster_id.len()));
        }
        Ok(Credentials { cluster_id, secret, epoch })
    }

    /// Names the cluster.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// What is proved.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Drawn once per process start.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Between two nodes: heartbeats, votes and small appends.
    Control,
    /// Between two nodes: appends too big to go between heartbeats.
    Bulk,
    /// From a router: requests and their answers.
    Router,
}

/// The other end, once it has proved itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its node; a router has none.
    pub node: Option<NodeId>,
    /// Drawn at its process start.
    pub epoch: u64,
    /// What the connection is for.
    pub purpose: Purpose,
    /// The protocol version both speak.
    pub version: u8,
}

/// Why a listener refuses a dialer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefuseReason {
    /// No version that both speak.
    #[error("no protocol version in common")]
    Version,
    /// Another cluster id.
    #[error("it belongs to another cluster")]
    WrongCluster,
    /// The dialer wants another node than the one it reached.
    #[error("it is another node than the one expected")]
    WrongNode,
    /// The proof does not hold.
    #[error("the shared secret differs")]
    WrongSecret,
    /// The dialer claims a node id that this cluster does not have, or the listener's own.
    #[error("the dialing node is not known to the cluster")]
    UnknownNode,
    /// A bound on connections is reached; later it may work.
    #[error("it has too many connections")]
    Busy,
}

/// Why a handshake failed. Nothing that came over the connection may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// A length prefix over [`MESSAGE_BYTES_MAX`], or 0: the other end speaks something else.
    #[error("a handshake message cannot have {0} bytes")]
    Length(usize),
    /// Not a handshake message, or not the one that is due.
    #[error("not a handshake message of this protocol")]
    Malformed,
    /// The other end refused.
    #[error("refused by the other end: {0}")]
    Refused(RefuseReason),
    /// This end refuses; as a listener it has a message for the other end ([`refusal`]).
    #[error("refused: {0}")]
    Refuse(RefuseReason),
    /// A cluster id of an impossible length.
    #[error("a cluster id has 1 to {CLUSTER_ID_BYTES_MAX} bytes, not {0}")]
    ClusterIdLength(usize),
}

/// The length that a prefix announces, checked before any memory is taken.
pub fn frame_length(prefix: [u8; PREFIX_BYTES]) -> Result<usize, HandshakeError> {
    match usize::from(u16::from_be_bytes(prefix)) {
        length @ 1..=MESSAGE_BYTES_MAX => Ok(length),
        length => Err(HandshakeError::Length(length)),
    }
}

/// The message, with its prefix, that tells a dialer why it is refused.
pub fn refusal(reason: RefuseReason) -> Vec<u8> {
    let byte = match reason {
        RefuseReason::Version => 1,
        RefuseReason::WrongCluster => 2,
        RefuseReason::WrongNode => 3,
        RefuseReason::WrongSecret => 4,
        RefuseReason::UnknownNode => 5,
        RefuseReason::Busy => 6,
    };
    framed(&[REFUSED, byte])
}

/// The dialing end. Every message it takes is without prefix, every one it gives has its prefix.
#[derive(Debug)]
pub struct Dialer {
    credentials: Credentials,
    purpose: Purpose,
    expected_node: Option<NodeId>,
    transcript: Vec<u8>,
    peer: Option<Peer>,
}

impl Dialer {
    /// Begins: the second value is to be sent. `node` is the dialer's own, `None` for a router;
    /// `expected_node` is the one that should answer, `None` if any will do.
    pub fn new(
        credentials: &Credentials,
        node: Option<NodeId>,
        purpose: Purpose,
        expected_node: Option<NodeId>,
        nonce: Nonce,
    ) -> (Dialer, Vec<u8>) {
        let mut body = Vec::with_capacity(64 + credentials.cluster_id.len());
        body.push(HELLO);
        body.extend_from_slice(&MAGIC);
        body.extend_from_slice(&[VERSION_MAX, VERSION_MIN, purpose_byte(purpose)]);
        body.extend_from_slice(&node.unwrap_or(NodeId(0)).0.to_le_bytes());
        body.extend_from_slice(&expected_node.unwrap_or(NodeId(0)).0.to_le_bytes());
        body.extend_from_slice(&credentials.epoch.to_le_bytes());
        body.extend_from_slice(&nonce);
        body.push(credentials.cluster_id.len() as u8);
        body.extend_from_slice(credentials.cluster_id.as_bytes());
        let hello = framed(&body);
        let dialer = Dialer {
            credentials: credentials.clone(),
            purpose,
            expected_node,
            transcript: hello.clone(),
            peer: None,
        };
        (dialer, hello)
    }

    /// Takes the challenge, gives the proof.
    pub fn on_challenge(&mut self, body: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        check_refused(body)?;
        if self.peer.is_some() {
            return Err(HandshakeError::Malformed);
        }
        let mut fields = Fields(body);
        fields.expect(&[CHALLENGE])?;
        let version = fields.byte()?;
        let node = fields.node()?.ok_or(HandshakeError::Malformed)?;
        let epoch = fields.u64()?;
        fields.bytes(size_of::<Nonce>())?;
        let claimed_bytes = body.len() - fields.0.len();
        let proof = fields.bytes(PROOF_BYTES)?;
        fields.end()?;
        self.transcript.extend_from_slice(&body[..claimed_bytes]);
        if !self.credentials.secret.verify(LISTENER_LABEL, &self.transcript, proof) {
            return Err(HandshakeError::Refuse(RefuseReason::WrongSecret));
        }
        if !(VERSION_MIN..=VERSION_MAX).contains(&version) {
            return Err(HandshakeError::Refuse(RefuseReason::Version));
        }
        if self.expected_node.is_some_and(|expected| expected != node) {
            return Err(HandshakeError::Refuse(RefuseReason::WrongNode));
        }
        self.transcript.extend_from_slice(proof);
        self.peer = Some(Peer { node: Some(node), epoch, purpose: self.purpose, version });
        let mut answer = vec![PROOF];
        answer.extend_from_slice(&self.credentials.secret.prove(DIALER_LABEL, &self.transcript));
        Ok(framed(&answer))
    }

    /// Takes the welcome: the connection stands.
    pub fn on_welcome(self, body: &[u8]) -> Result<Peer, HandshakeError> {
        check_refused(body)?;
        match (body, self.peer) {
            ([WELCOME], Some(peer)) => Ok(peer),
            _ => Err(HandshakeError::Malformed),
        }
    }
}

/// The listening end. On `Refuse` its host sends [`refusal`] and closes; on any other error it
/// closes without a word (scenario B97).
#[derive(Debug)]
pub struct Listener {
    credentials: Credentials,
    node: NodeId,
    nonce: Nonce,
    newest: u8,
    transcript: Vec<u8>,
    peer: Option<Peer>,
}

impl Listener {
    /// One per connection. `node` is the listener's own.
    pub fn new(credentials: &Credentials, node: NodeId, nonce: Nonce) -> Listener {
        Listener {
            credentials: credentials.clone(),
            node,
            nonce,
            newest: VERSION_MAX,
            transcript: Vec::new(),
            peer: None,
        }
    }

    /// As a program listens whose newest version is that: with it tests show what is done beside an older one.
    pub fn of_version(self, newest: u8) -> Listener {
        Listener { newest, ..self }
    }

    /// Takes the hello, gives the challenge.
    pub fn on_hello(&mut self, body: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        if self.peer.is_some() {
            return Err(HandshakeError::Malformed);
        }
        let mut fields = Fields(body);
        fields.expect(&[HELLO])?;
        fields.expect(&MAGIC)?;
        let (newest, oldest) = (fields.byte()?, fields.byte()?);
        let version = newest.min(self.newest);
        if newest < oldest || version < oldest || version < VERSION_MIN {
            return Err(HandshakeError::Refuse(RefuseReason::Version));
        }
        let purpose = purpose_of(fields.byte()?)?;
        let (node, expected) = (fields.node()?, fields.node()?);
        let epoch = fields.u64()?;
        fields.bytes(size_of::<Nonce>())?;
        let length = usize::from(fields.byte()?);
        let cluster_id = fields.bytes(length)?;
        fields.end()?;
        if (purpose == Purpose::Router) != node.is_none() {
            return Err(HandshakeError::Malformed);
        }
        if cluster_id != self.credentials.cluster_id.as_bytes() {
            return Err(HandshakeError::Refuse(RefuseReason::WrongCluster));
        }
        if expected.is_some_and(|expected| expected != self.node) {
            return Err(HandshakeError::Refuse(RefuseReason::WrongNode));
        }
        if node == Some(self.node) {
            return Err(HandshakeError::Refuse(RefuseReason::UnknownNode));
        }
        self.peer = Some(Peer { node, epoch, purpose, version });
        self.transcript = framed(body);
        Ok(self.challenge(version))
    }

    fn challenge(&mut self, version: u8) -> Vec<u8> {
        let mut body = vec![CHALLENGE, version];
        body.extend_from_slice(&self.node.0.to_le_bytes());
        body.extend_from_slice(&self.credentials.epoch.to_le_bytes());
        body.extend_from_slice(&self.nonce);
        self.transcript.extend_from_slice(&body);
        let proof = self.credentials.secret.prove(LISTENER_LABEL, &self.transcript);
        self.transcript.extend_from_slice(&proof);
        body.extend_from_slice(&proof);
        framed(&body)
    }

    /// Takes the proof: the dialer is who it says. The host may still refuse it (an unknown node);
    /// else it sends the second value, the welcome, and the connection stands.
    pub fn on_proof(self, body: &[u8]) -> Result<(Peer, Vec<u8>), HandshakeError> {
        let peer = self.peer.ok_or(HandshakeError::Malformed)?;
        let mut fields = Fields(body);
        fields.expect(&[PROOF])?;
        let proof = fields.bytes(PROOF_BYTES)?;
        fields.end()?;
        if !self.credentials.secret.verify(DIALER_LABEL, &self.transcript, proof) {
            return Err(HandshakeError::Refuse(RefuseReason::WrongSecret));
        }
        Ok((peer, framed(&[WELCOME])))
    }
}

fn framed(body: &[u8]) -> Vec<u8> {
    assert!(body.len() <= MESSAGE_BYTES_MAX, "handshake message of {} bytes", body.len());
    let mut message = Vec::with_capacity(PREFIX_BYTES + body.len());
    message.extend_from_slice(&(body.len() as u16).to_be_bytes());
    message.extend_from_slice(body);
    message
}

fn purpose_byte(purpose: Purpose) -> u8 {
    match purpose {
        Purpose::Control => 1,
        Purpose::Bulk => 2,
        Purpose::Router => 3,
    }
}

fn purpose_of(byte: u8) -> Result<Purpose, HandshakeError> {
    match byte {
        1 => Ok(Purpose::Control),
        2 => Ok(Purpose::Bulk),
        3 => Ok(Purpose::Router),
        _ => Err(HandshakeError::Malformed),
    }
}

fn check_refused(body: &[u8]) -> Result<(), HandshakeError> {
    let [REFUSED, byte] = body else { return Ok(()) };
    Err(match byte {
        1 => HandshakeError::Refused(RefuseReason::Version),
        2 => HandshakeError::Refused(RefuseReason::WrongCluster),
        3 => HandshakeError::Refused(RefuseReason::WrongNode),
        4 => HandshakeError::Refused(RefuseReason::WrongSecret),
        5 => HandshakeError::Refused(RefuseReason::UnknownNode),
        6 => HandshakeError::Refused(RefuseReason::Busy),
        _ => HandshakeError::Malformed,
    })
}

/// The rest of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], HandshakeError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(HandshakeError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, HandshakeError> {
        Ok(self.bytes(1)?[0])
    }

    fn u64(&mut self) -> Result<u64, HandshakeError> {
        let mut raw = [0; 8];
        raw.copy_from_slice(self.bytes(8)?);
        Ok(u64::from_le_bytes(raw))
    }

    fn node(&mut self) -> Result<Option<NodeId>, HandshakeError> {
        let id = self.u64()?;
        Ok((id != 0).then_some(NodeId(id)))
    }

    fn expect(&mut self, want: &[u8]) -> Result<(), HandshakeError> {
        if self.bytes(want.len())? == want { Ok(()) } else { Err(HandshakeError::Malformed) }
    }

    fn end(&self) -> Result<(), HandshakeError> {
        if self.0.is_empty() { Ok(()) } else { Err(HandshakeError::Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(cluster: &str, secret: &str, epoch: u64) -> Credentials {
        Credentials::new(cluster, Secret::new(secret), epoch).unwrap()
    }

    fn body(message: &[u8]) -> &[u8] {
        assert_eq!(frame_length([message[0], message[1]]).unwrap(), message.len() - PREFIX_BYTES);
        &message[PREFIX_BYTES..]
    }

    const N1: NodeId = NodeId(1);
    const N2: NodeId = NodeId(2);

    struct Run {
        dialer: Credentials,
        listener: Credentials,
        node: Option<NodeId>,
        purpose: Purpose,
        expected: Option<NodeId>,
    }

    impl Run {
        fn good() -> Run {
            Run {
                dialer: credentials("c", "s", 11),
                listener: credentials("c", "s", 22),
                node: Some(N1),
                purpose: Purpose::Control,
                expected: Some(N2),
            }
        }

        fn run(&self) -> Result<(Peer, Peer), HandshakeError> {
            let (mut dialer, hello) =
                Dialer::new(&self.dialer, self.node, self.purpose, self.expected, [7; 32]);
            let mut listener = Listener::new(&self.listener, N2, [8; 32]);
            let challenge = listener.on_hello(body(&hello))?;
            let proof = dialer.on_challenge(body(&challenge))?;
            let (seen, welcome) = listener.on_proof(body(&proof))?;
            Ok((dialer.on_welcome(body(&welcome))?, seen))
        }
    }

    #[test]
    fn both_ends_learn_who_the_other_is() {
        let (listener, dialer) = Run::good().run().unwrap();
        let control = Purpose::Control;
        assert_eq!(
            listener,
            Peer { node: Some(N2), epoch: 22, purpose: control, version: VERSION_MAX }
        );
        assert_eq!(
            dialer,
            Peer { node: Some(N1), epoch: 11, purpose: control, version: VERSION_MAX }
        );
        let front_end =
            Run { node: None, purpose: Purpose::Router, expected: None, ..Run::good() }.run();
        assert_eq!(front_end.unwrap().1.node, None);
    }

    #[test]
    fn wrong_secret_cluster_or_node_is_refused() {
        let wrong = |run: Run| run.run().unwrap_err();
        assert_eq!(
            wrong(Run { dialer: credentials("c", "other", 1), ..Run::good() }),
            HandshakeError::Refuse(RefuseReason::WrongSecret)
        );
        assert_eq!(
            wrong(Run { dialer: credentials("d", "s", 1), ..Run::good() }),
            HandshakeError::Refuse(RefuseReason::WrongCluster)
        );
        assert_eq!(
            wrong(Run { expected: Some(NodeId(3)), ..Run::good() }),
            HandshakeError::Refuse(RefuseReason::WrongNode)
        );
        assert_eq!(
            wrong(Run { node: Some(N2), ..Run::good() }),
            HandshakeError::Refuse(RefuseReason::UnknownNode)
        );
        assert_eq!(wrong(Run { node: None, ..Run::good() }), HandshakeError::Malformed);
    }

    #[test]
    fn a_dialer_without_the_secret_cannot_pass_by_reflection_or_replay() {
        let good = credentials("c", "s", 1);
        let (mut dialer, hello) = Dialer::new(&good, Some(N1), Purpose::Control, Some(N2), [1; 32]);
        let mut listener = Listener::new(&good, N2, [2; 32]);
        let challenge = listener.on_hello(body(&hello)).unwrap();
        let proof = dialer.on_challenge(body(&challenge)).unwrap();

        // The listener's own proof sent back to it.
        let mut reflected = vec![PROOF];
        reflected.extend_from_slice(&challenge[challenge.len() - PROOF_BYTES..]);
        assert_eq!(
            listener.on_proof(&reflected).unwrap_err(),
            HandshakeError::Refuse(RefuseReason::WrongSecret)
        );

        // The recorded hello and proof, to a listener with its next nonce.
        let mut later = Listener::new(&good, N2, [3; 32]);
        later.on_hello(body(&hello)).unwrap();
        assert_eq!(
            later.on_proof(body(&proof)).unwrap_err(),
            HandshakeError::Refuse(RefuseReason::WrongSecret)
        );
    }

    #[test]
    fn a_listener_without_the_secret_cannot_pass_by_replay() {
        let good = credentials("c", "s", 1);
        let (_, hello) = Dialer::new(&good, Some(N1), Purpose::Control, None, [1; 32]);
        let challenge = Listener::new(&good, N2, [2; 32]).on_hello(body(&hello)).unwrap();
        let (mut later, _) = Dialer::new(&good, Some(N1), Purpose::Control, None, [9; 32]);
        assert_eq!(
            later.on_challenge(body(&challenge)).unwrap_err(),
            HandshakeError::Refuse(RefuseReason::WrongSecret)
        );
    }

    #[test]
    fn every_byte_that_is_changed_on_the_way_ends_the_handshake() {
        let good = credentials("c", "s", 1);
        let (_, hello) = Dialer::new(&good, Some(N1), Purpose::Control, Some(N2), [1; 32]);
        for at in 0..body(&hello).len() {
            let (mut dialer, hello) =
                Dialer::new(&good, Some(N1), Purpose::Control, Some(N2), [1; 32]);
            let mut changed = body(&hello).to_vec();
            changed[at] ^= 1;
            let mut listener = Listener::new(&good, N2, [2; 32]);
            let end = listener.on_hello(&changed).and_then(|challenge| {
                let proof = dialer.on_challenge(body(&challenge))?;
                listener.on_proof(body(&proof))
            });
            assert!(end.is_err(), "byte {at} of the hello");
        }
        let mut listener = Listener::new(&good, N2, [2; 32]);
        let challenge = listener.on_hello(body(&hello)).unwrap();
        for at in 0..body(&challenge).len() {
            let (mut dialer, _) = Dialer::new(&good, Some(N1), Purpose::Control, Some(N2), [1; 32]);
            let mut changed = body(&challenge).to_vec();
            changed[at] ^= 1;
            assert!(dialer.on_challenge(&changed).is_err(), "byte {at} of the challenge");
        }
    }

    #[test]
    fn versions_without_one_in_common_are_refused() {
        let good = credentials("c", "s", 1);
        let (_, hello) = Dialer::new(&good, None, Purpose::Router, None, [1; 32]);
        let table = [
            (4, 1, Some(4)),
            (3, 1, Some(3)),
            (2, 1, Some(2)),
            (9, 4, Some(4)),
            (9, 5, None),
            (1, 1, None),
            (1, 2, None),
        ];
        for (newest, oldest, both) in table {
            let mut changed = body(&hello).to_vec();
            (changed[5], changed[6]) = (newest, oldest);
            let answer = Listener::new(&good, N2, [2; 32]).on_hello(&changed);
            match both {
                Some(version) => assert_eq!(body(&answer.unwrap())[1], version),
                None => {
                    assert_eq!(answer.unwrap_err(), HandshakeError::Refuse(RefuseReason::Version))
                }
            }
        }
    }

    #[test]
    fn garbage_is_recognised_from_its_first_two_bytes_or_ends_as_malformed() {
        for start in [b"GE", b"*1", b"PI", &[0x16, 0x03], &[0, 0], &[0xff, 0xff]] {
            assert!(frame_length(*start).is_err(), "{start:?}");
        }
        let good = credentials("c", "s", 1);
        let (_, hello) = Dialer::new(&good, None, Purpose::Router, None, [1; 32]);
        for cut in 0..body(&hello).len() {
            let answer = Listener::new(&good, N2, [2; 32]).on_hello(&body(&hello)[..cut]);
            assert_eq!(answer.unwrap_err(), HandshakeError::Malformed);
        }
        let mut longer = body(&hello).to_vec();
        longer.push(0);
        let answer = Listener::new(&good, N2, [2; 32]).on_hello(&longer);
        assert_eq!(answer.unwrap_err(), HandshakeError::Malformed);
    }

    #[test]
    fn no_bytes_make_either_end_panic() {
        let good = credentials("c", "s", 1);
        let mut state = 1u64;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        };
        for round in 0..20_000 {
            let kind = [HELLO, CHALLENGE, PROOF, WELCOME, REFUSED][round % 5];
            let length = usize::from(byte());
            let mut noise: Vec<u8> =
                std::iter::once(kind).chain((0..length).map(|_| byte())).collect();
            if kind == HELLO && length > 4 {
                noise[1..5].copy_from_slice(&MAGIC);
            }
            let (mut dialer, hello) = Dialer::new(&good, None, Purpose::Router, None, [1; 32]);
            assert!(dialer.on_challenge(&noise).is_err());
            assert!(dialer.on_welcome(&noise).is_err());
            let mut listener = Listener::new(&good, N2, [2; 32]);
            assert!(listener.on_hello(&noise).is_err());
            listener.on_hello(body(&hello)).unwrap();
            assert!(listener.on_proof(&noise).is_err());
        }
    }

    #[test]
    fn a_refusal_reaches_the_dialer_in_either_step() {
        let good = credentials("c", "s", 1);
        for reason in [
            RefuseReason::Version,
            RefuseReason::WrongCluster,
            RefuseReason::WrongNode,
            RefuseReason::WrongSecret,
            RefuseReason::UnknownNode,
            RefuseReason::Busy,
        ] {
            let message = refusal(reason);
            let (mut dialer, _) = Dialer::new(&good, None, Purpose::Router, None, [1; 32]);
            let refused = HandshakeError::Refused(reason);
            assert_eq!(dialer.on_challenge(body(&message)).unwrap_err(), refused);
            assert_eq!(dialer.on_welcome(body(&message)).unwrap_err(), refused);
        }
        let (dialer, _) = Dialer::new(&good, None, Purpose::Router, None, [1; 32]);
        assert_eq!(dialer.on_welcome(&[WELCOME]).unwrap_err(), HandshakeError::Malformed);
    }

    /// The bytes are a contract between versions: a change here is a new protocol version. The proofs
    /// were computed by another HMAC implementation.
    #[test]
    fn golden_bytes() {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let good = credentials("c", "s", 0x0102);
        let (mut dialer, hello) = Dialer::new(&good, Some(N1), Purpose::Bulk, Some(N2), [0xaa; 32]);
        let expected_hello = [
            "0042",
            "01464c544c",
            "040202",
            "0100000000000000",
            "0200000000000000",
            "0201000000000000",
            &"aa".repeat(32),
            "0163",
        ];
        assert_eq!(hex(&hello), expected_hello.concat());
        let mut listener = Listener::new(&good, N2, [0xbb; 32]);
        let challenge = listener.on_hello(body(&hello)).unwrap();
        let plain = ["0052", "0204", "0200000000000000", "0201000000000000", &"bb".repeat(32)];
        assert_eq!(hex(&challenge[..challenge.len() - PROOF_BYTES]), plain.concat());
        let proof = dialer.on_challenge(body(&challenge)).unwrap();
        assert_eq!(
            (hex(&challenge[challenge.len() - PROOF_BYTES..]), hex(&proof[3..])),
            (
                "c688ca19177d414a80b2970b6e917b42ec244893bd2a4aabae9e2427ee07e2a6".to_owned(),
                "f7293e63e094fcf6314dbe39d87ff8416cc133c2b9d98383c6078aad8d88e359".to_owned(),
            )
        );
    }
}
