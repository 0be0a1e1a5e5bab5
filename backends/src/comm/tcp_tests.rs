//! Ranks connected by TCP, here threads of one process: they find each other, reduce as all engines do, and find out who is gone.

use super::*;
use lm_saes_runtime::{Background, DType, Exchange, Group, Queue, Reduction};

const LONG: Duration = Duration::from_secs(60);

/// An address nobody listens at.
fn free() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn on_ranks<T: Send>(
    size: usize,
    patience: Duration,
    job: impl Fn(&Tcp, &mut Queue) -> Result<T> + Sync,
) -> Vec<Result<T>> {
    let address = free();
    thread::scope(|s| {
        let start = |rank| {
            let (job, address) = (&job, address.as_str());
            s.spawn(move || {
                let tcp = Tcp::join(address, rank, size, patience)?;
                job(&tcp, &mut Queue::new(&crate::registry().open("cpu")?)?)
            })
        };
        let ranks: Vec<_> = (0..size).map(start).collect();
        ranks.into_iter().map(|r| r.join().unwrap()).collect()
    })
}

#[test]
fn ranks_meet_in_any_order_and_reduce_in_the_order_of_the_ranks() {
    let addends = [1e8f32, 1.0, -1e8, 3.0];
    let got = on_ranks(4, LONG, |tcp, q| {
        // The last one is there long before the first one listens.
        let mut g = Group::new(tcp.world());
        let mut x = q.tensor(1, 70_001, &vec![addends[g.rank()]; 70_001])?;
        g.all_reduce(q, &mut x, Reduction::Sum)?;
        let mut small = g.split((g.rank() % 2) as u32, 0)?;
        let members = small.gather_bytes(q, &[g.rank() as u8])?.concat();
        let mut b = q.tensor(1, 1, &[g.rank() as f32])?;
        g.broadcast(q, &mut b, 2)?;
        Ok((q.download::<f32>(&x)?, members, q.download::<f32>(&b)?))
    });
    for (r, got) in got.into_iter().enumerate() {
        let (sums, members, b) = got.unwrap();
        assert!(sums.iter().all(|v| *v == 3.0), "{:?}", &sums[..2]);
        assert_eq!(members, if r % 2 == 0 { [0, 2] } else { [1, 3] });
        assert_eq!(b, [2.0]);
    }
}

#[test]
fn exchanges_in_the_background_and_collectives_in_front_of_them_do_not_mix() {
    let got = on_ranks(3, LONG, |tcp, q| {
        let mut world = Group::new(tcp.world());
        let behind = world.split(0, world.rank() as u32)?;
        let mut behind = Background::new(behind.into_comm().expect("three ranks"));
        let (rank, mut sums) = (world.rank() as f32, Vec::new());
        let mut tickets = Vec::new();
        for i in 0..20 {
            let x = q.tensor(7, 500, &vec![rank + i as f32; 3500])?;
            tickets.push(behind.start(q, Exchange::Sum, x, 7)?);
            let mut y = q.tensor(1, 1, &[rank])?;
            world.all_reduce(q, &mut y, Reduction::Sum)?;
            sums.push(q.download::<f32>(&y)?[0]);
        }
        let mut own = Vec::new();
        for ticket in tickets {
            let x = behind.finish(ticket)?;
            own.push(q.download::<f32>(x.rows_view(2 * world.rank()..2 * world.rank() + 1))?[0]);
            // The row left over is everybody's.
            own.push(q.download::<f32>(x.rows_view(6..7))?[499]);
        }
        Ok((sums, own))
    });
    for got in got {
        let (sums, own) = got.unwrap();
        assert_eq!(sums, [3.0; 20]);
        let want: Vec<f32> = (0..20).flat_map(|i| [3.0 + 3.0 * i as f32; 2]).collect();
        assert_eq!(own, want);
    }
}

#[test]
fn a_rank_that_leaves_is_named_at_once_and_one_that_stands_still_in_time() {
    let began = Instant::now();
    let got = on_ranks(3, LONG, |tcp, q| {
        if tcp.rank() == 1 {
            return Ok(());
        }
        Group::new(tcp.world()).barrier(q)
    });
    let e = got[0].as_ref().unwrap_err().to_string();
    assert!(e.contains("rank 1 has left the job"), "{e}");
    assert!(began.elapsed() < LONG / 2);
    let got = on_ranks(2, Duration::from_secs(1), |tcp, q| {
        if tcp.rank() == 1 {
            thread::sleep(Duration::from_secs(3));
            return Ok(());
        }
        Group::new(tcp.world()).barrier(q)
    });
    let e = got[0].as_ref().unwrap_err().to_string();
    assert!(e.contains("rank 1 did not take part in barrier within 1 s"), "{e}");
}

#[test]
fn who_does_not_come_and_who_does_not_belong_are_reported() {
    let address = free();
    let alone = |rank| Tcp::join(&address, rank, 2, Duration::from_millis(300)).err().unwrap().to_string();
    let e = alone(0);
    assert!(e.contains("1 of 2 ranks have come in time"), "{e}");
    let e = alone(1);
    assert!(e.contains("rank 0 does not listen at"), "{e}");
    // Noise at the port is not taken for a rank.
    let address = free();
    let joined = thread::scope(|s| {
        let first = s.spawn(|| Tcp::join(&address, 0, 2, LONG).map(|t| t.size()));
        let mut noise = reach(&address, 0, Instant::now() + LONG).unwrap();
        noise.write_all(b"GET / HTTP/1.1\r\nHost: somebody else\r\n\r\n").unwrap();
        let second = s.spawn(|| Tcp::join(&address, 1, 2, LONG).map(|t| t.size()));
        (first.join().unwrap(), second.join().unwrap())
    });
    assert_eq!((joined.0.unwrap(), joined.1.unwrap()), (2, 2));
    // A rank of another job is.
    let address = free();
    let told = thread::scope(|s| {
        let first = s.spawn(|| Tcp::join(&address, 0, 2, LONG).err().map(|e| e.to_string()));
        let _ = Tcp::join(&address, 5, 9, Duration::from_secs(5));
        first.join().unwrap()
    });
    assert!(told.is_some_and(|e| e.contains("rank 5 of 9")));
}

#[test]
fn types_other_than_floats_pass_too() {
    let got = on_ranks(2, LONG, |tcp, q| {
        let mut g = Group::new(tcp.world());
        let mut n = q.tensor(1, 3, &[1_u32, 2, 3 + g.rank() as u32])?;
        g.all_reduce(q, &mut n, Reduction::Sum)?;
        let flags = q.tensor(1, 2, &[g.rank() as u8, 7])?;
        let mut all = q.empty(2, 2, DType::U8)?;
        g.all_gather(q, &flags, &mut all)?;
        Ok((q.download::<u32>(&n)?, q.download::<u8>(&all)?))
    });
    assert!(got.into_iter().all(|r| r.unwrap() == (vec![2, 4, 7], vec![0, 7, 1, 7])));
}
