//! What the tests share: real processes, golden scripts, simulated worlds.
