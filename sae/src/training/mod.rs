//! Initialiser, schedules, optimiser, trainer, metrics, trackers, snapshots.
