//! What every engine must do, on ranks that are threads; and how ranks that fail end a collective.

use super::threads;
use lm_saes_runtime::{DType, Group, Queue, Reduction, Result, Traffic};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Runs `job` on `size` ranks with a queue each, and gives what they returned.
fn on_ranks<T: Send>(
    size: usize,
    patience: Duration,
    job: impl Fn(&mut Group, &mut Queue) -> Result<T> + Sync,
) -> Vec<Result<T>> {
    thread::scope(|s| {
        let ranks: Vec<_> = threads(size, patience)
            .into_iter()
            .map(|comm| {
                let job = &job;
                s.spawn(move || {
                    let device = crate::registry().open("cpu")?;
                    job(&mut Group::new(comm), &mut Queue::new(&device)?)
                })
            })
            .collect();
        ranks.into_iter().map(|r| r.join().unwrap()).collect()
    })
}

const LONG: Duration = Duration::from_secs(60);

fn all<T: Send>(size: usize, job: impl Fn(&mut Group, &mut Queue) -> Result<T> + Sync) -> Vec<T> {
    on_ranks(size, LONG, job).into_iter().map(Result::unwrap).collect()
}

#[test]
fn sums_are_added_in_the_order_of_the_ranks_and_equal_everywhere() {
    // Another order gives other bits: (1e8 + 1) − 1e8 is 0 in f32, (1e8 − 1e8) + 1 is 1.
    let addends = [1e8f32, 1.0, -1e8];
    let got = all(3, |g, q| {
        let mut x = q.tensor(1, 5, &[addends[g.rank()]; 5])?;
        g.all_reduce(q, &mut x, Reduction::Sum)?;
        q.download::<f32>(&x)
    });
    assert!(got.iter().all(|v| *v == [0.0; 5]), "{got:?}");
}

#[test]
fn every_type_is_reduced_in_every_way() {
    let got = all(4, |g, q| {
        let r = g.rank();
        let mut out = Vec::new();
        for how in [Reduction::Sum, Reduction::Max, Reduction::Min] {
            let mut u = q.tensor(1, 2, &[r as u32, u32::MAX - r as u32])?;
            g.all_reduce(q, &mut u, how)?;
            let mut i = q.tensor(1, 1, &[-(r as i32)])?;
            g.all_reduce(q, &mut i, how)?;
            let mut h = q.tensor(1, 1, &[half::bf16::from_f32(r as f32 + 0.5)])?;
            g.all_reduce(q, &mut h, how)?;
            out.push((
                q.download::<u32>(&u)?,
                q.download::<i32>(&i)?[0],
                q.download::<half::bf16>(&h)?[0].to_f32(),
            ));
        }
        Ok(out)
    });
    let expected = vec![
        (vec![6, 0u32.wrapping_sub(4 + 6)], -6, 8.0),
        (vec![3, u32::MAX], 0, 3.5),
        (vec![0, u32::MAX - 3], -3, 0.5),
    ];
    assert!(got.iter().all(|v| *v == expected), "{got:?}");
}

#[test]
fn gathering_scattering_and_broadcasting_put_rows_where_they_belong() {
    let got = all(3, |g, q| {
        let r = g.rank() as f32;
        let mine = q.tensor(2, 2, &[r, r + 0.25, r + 0.5, r + 0.75])?;
        let mut gathered = q.empty(6, 2, DType::F32)?;
        g.all_gather(q, &mine, &mut gathered)?;
        let mut back = q.empty(2, 2, DType::F32)?;
        g.reduce_scatter(q, &gathered, &mut back, Reduction::Sum)?;
        let mut b = q.tensor(1, 1, &[r])?;
        g.broadcast(q, &mut b, 2)?;
        Ok((q.download::<f32>(&gathered)?, q.download::<f32>(&back)?, q.download::<f32>(&b)?))
    });
    let gathered: Vec<f32> = (0..12).map(|i| i as f32 / 4.0).collect();
    for (r, (all, back, b)) in got.into_iter().enumerate() {
        assert_eq!(all, gathered);
        let expected: Vec<f32> = gathered[r * 4..r * 4 + 4].iter().map(|v| 3.0 * v).collect();
        assert_eq!(back, expected);
        assert_eq!(b, [2.0]);
    }
}

#[test]
fn bytes_of_uneven_length_and_sums_in_f64_reach_everybody() {
    let got = all(3, |g, q| {
        let text = b"abc"[..g.rank()].to_vec();
        let mut sums = [0.1 * (g.rank() + 1) as f64, 1.0];
        g.sum_f64(q, &mut sums)?;
        Ok((g.gather_bytes(q, &text)?, sums))
    });
    for (texts, sums) in got {
        assert_eq!(texts, [&b""[..], b"a", b"ab"]);
        assert_eq!(sums, [0.1 + 0.2 + 0.1 * 3.0, 3.0]);
    }
}

#[test]
fn a_split_makes_groups_by_colour_in_the_order_of_the_key() {
    let got = all(6, |g, q| {
        let r = g.rank();
        let mut small = g.split((r % 2) as u32, 10 - r as u32)?;
        let members = small.gather_bytes(q, &[r as u8])?.concat();
        // Again with the same colours, and a group inside a group.
        let again = small.split(0, small.rank() as u32)?.gather_bytes(q, &[r as u8])?.concat();
        Ok((small.rank(), members, again))
    });
    for (r, (rank, members, again)) in got.into_iter().enumerate() {
        let expected = if r % 2 == 0 { [4, 2, 0] } else { [5, 3, 1] };
        assert_eq!(members, expected);
        assert_eq!(again, expected);
        assert_eq!(members[rank], r as u8);
    }
}

#[test]
fn what_was_moved_is_counted_by_kind() {
    let got = all(4, |g, q| {
        let mut x = q.zeros(2, 8, DType::F32)?;
        g.all_reduce(q, &mut x, Reduction::Sum)?;
        g.all_reduce(q, &mut x, Reduction::Max)?;
        let mut y = q.zeros(8, 8, DType::F32)?;
        g.all_gather(q, &x, &mut y)?;
        g.barrier(q)?;
        Ok(g.traffic().clone())
    });
    for t in got {
        // 64 bytes twice, three quarters of them twice; 256 bytes, three quarters of them.
        assert_eq!(t["all_reduce"], Traffic { calls: 2, sent: 2 * 96 });
        assert_eq!(t["all_gather"], Traffic { calls: 1, sent: 192 });
        assert_eq!(t["barrier"], Traffic { calls: 1, sent: 0 });
    }
}

#[test]
fn a_group_of_one_only_copies() {
    let device = crate::registry().open("cpu").unwrap();
    let mut q = Queue::new(&device).unwrap();
    let mut g = Group::solo();
    let mut x = q.tensor(1, 3, &[1.0f32, 2.0, 3.0]).unwrap();
    g.all_reduce(&mut q, &mut x, Reduction::Sum).unwrap();
    let mut y = q.zeros(1, 3, DType::F32).unwrap();
    g.reduce_scatter(&mut q, &x, &mut y, Reduction::Sum).unwrap();
    assert_eq!(q.download::<f32>(&y).unwrap(), [1.0, 2.0, 3.0]);
    assert!(g.traffic().is_empty());
}

#[test]
fn a_rank_that_does_not_come_is_named_on_all_others() {
    let began = Instant::now();
    let done = on_ranks(3, Duration::from_millis(300), |g, q| {
        if g.rank() == 1 {
            thread::sleep(Duration::from_millis(1200));
            return Ok(());
        }
        g.barrier(q)
    });
    assert!(began.elapsed() < Duration::from_secs(30));
    for r in [0, 2] {
        let e = done[r].as_ref().unwrap_err().to_string();
        assert_eq!(e, format!("rank {r}: barrier: rank 1 did not take part in barrier within 0.3 s"));
    }
}

#[test]
fn a_rank_that_leaves_is_named_at_once() {
    let began = Instant::now();
    let done = on_ranks(3, LONG, |g, q| if g.rank() == 2 { Ok(()) } else { g.barrier(q) });
    assert!(began.elapsed() < LONG / 2);
    for r in [0, 1] {
        let e = done[r].as_ref().unwrap_err().to_string();
        assert!(e.ends_with("rank 2 has left the job"), "{e}");
    }
}

#[test]
fn ranks_that_state_different_things_are_told_so() {
    let done = on_ranks(2, LONG, |g, q| {
        let mut x = q.zeros(1, 4 + g.rank(), DType::F32)?;
        g.all_reduce(q, &mut x, Reduction::Sum)
    });
    for d in done {
        let e = d.unwrap_err().to_string();
        assert!(e.contains("rank 0 states") && e.contains("n: 5"), "{e}");
    }
}

#[test]
fn a_failed_collective_stops_the_queue() {
    let done = on_ranks(2, LONG, |g, q| {
        if g.rank() == 1 {
            return Ok(String::new());
        }
        let first = g.barrier(q).unwrap_err();
        let then = q.zeros(1, 1, DType::F32).unwrap_err();
        assert!(then.to_string().contains(&first.to_string()), "{then}");
        Ok(then.to_string())
    });
    assert!(done[0].as_ref().unwrap().contains("stopped by an earlier failure"));
}
