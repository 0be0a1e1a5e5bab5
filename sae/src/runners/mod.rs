//! One function per job; what the command line and embedders call.
