//! Small safe wrappers over Linux: everything that needs `unsafe`, and every system call whose
//! order or error handling is easy to get wrong, lives here.
//!
//! The public API is safe. Modules that change the calling process (its signals, descriptors,
//! privileges, name) are meant for a freshly forked, single-threaded child.

#![deny(unsafe_op_in_unsafe_fn)]

pub mod cgroup;
pub mod error;
pub mod fifo;
pub mod landlock;
pub mod mount;
pub mod namespace;
pub mod path;
pub mod pidfd;
pub mod privileges;
pub mod process;
pub mod sealed_exe;
pub mod sealed_memory;
pub mod seccomp;
pub mod seqpacket;
pub mod shared;
pub mod signal;
pub mod stdio;
pub mod tcp;
pub mod terminal;
pub mod title;
pub mod waiting;

#[cfg(test)]
mod forked;
