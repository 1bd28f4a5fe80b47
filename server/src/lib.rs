//! The program.
pub mod log_store;
