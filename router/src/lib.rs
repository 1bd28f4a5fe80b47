//! The front end: RESP in, requests to groups out.
pub mod backend;
pub mod dial;
pub mod dispatch;
mod link;
