//! The program.
pub mod data_dir;
pub mod log_store;
