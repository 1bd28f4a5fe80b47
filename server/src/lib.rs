//! The program.
pub mod data_dir;
pub mod listener;
pub mod log_store;
pub mod random;
pub mod transport;
