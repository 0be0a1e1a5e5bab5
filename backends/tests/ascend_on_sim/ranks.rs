//! Several processes, each with an NPU of its own, that exchange data by HCCL. What connects the processes is a folder here; only the
//! root of the communicators goes through it.

use super::client::{Files, on_ranks};
use lm_saes_backends::{comm::on_device, registry};
use lm_saes_runtime::{DType, Error, Group, Queue, Reduction, Result};
use std::{thread, time::Duration};

/// This process's group of all ranks, and a queue on its NPU.
fn start() -> Result<(Group, Queue)> {
    let (files, rank) = Files::of_process();
    let device = registry().open(&format!("npu:{rank}"))?;
    let (world, by) = on_device(&device, Box::new(files), Duration::from_secs(60))?;
    assert_eq!(by, "HCCL between NPUs");
    Ok((Group::new(world), Queue::new(&device)?))
}

#[test]
fn two_and_four_npus_exchange_data_and_add_in_the_order_of_the_ranks() {
    for (n, settings) in [(2, "run=eager;seed=1"), (4, "run=synced"), (4, "run=random;seed=3")] {
        on_ranks("ranks::exchange", n, settings, &[]);
    }
}

#[test]
#[ignore = "started by two_and_four_npus"]
fn exchange() -> Result<()> {
    let (mut world, mut q) = start()?;
    sums(&mut world, &mut q)?;
    moves(&mut world, &mut q)?;
    let (rank, size) = (world.rank(), world.size());
    // Groups of two, in turned order; each has a communicator of its own.
    let mut pair = world.split((rank / 2) as u32, (size - rank) as u32)?;
    assert_eq!((pair.rank(), pair.size()), (1 - rank % 2, 2));
    let members = pair.gather_bytes(&mut q, &[rank as u8])?.concat();
    let first = (rank / 2 * 2) as u8;
    assert_eq!(members, [first + 1, first]);
    let mut sums = [0.1 * (rank + 1) as f64];
    world.sum_f64(&mut q, &mut sums)?;
    assert_eq!(sums[0], (0..size).fold(0.0, |s, r| s + 0.1 * (r + 1) as f64));
    world.barrier(&mut q)
}

/// Element i of rank r: the order in which these are added shows in the bits.
fn addend(r: usize, i: usize) -> f32 {
    [1e8, 1.0, -1e8, 0.37][r % 4] * (1.0 + (i % 7) as f32)
}

fn sums(world: &mut Group, q: &mut Queue) -> Result<()> {
    let (rank, size) = (world.rank(), world.size());
    // Whole segments, and not.
    for n in [1, 3, 64, 1003] {
        let own: Vec<f32> = (0..n).map(|i| addend(rank, i)).collect();
        let mut x = q.tensor(1, n, &own)?;
        world.all_reduce(q, &mut x, Reduction::Sum)?;
        let expected: Vec<f32> =
            (0..n).map(|i| (1..size).fold(addend(0, i), |s, r| s + addend(r, i))).collect();
        assert_eq!(q.download::<f32>(&x)?, expected);
        world.all_reduce(q, &mut x, Reduction::Max)?;
        assert_eq!(q.download::<f32>(&x)?, expected);
    }
    // In f32, rounded once: 256 + 1 is 256 in bf16, and 1 + 1 + 1 are lost one by one.
    let own = if rank == 0 { 256.0 } else { 1.0 };
    let mut x = q.tensor(1, 2, &[half::bf16::from_f32(own); 2])?;
    world.all_reduce(q, &mut x, Reduction::Sum)?;
    let expected = half::bf16::from_f32(256.0 + (size - 1) as f32);
    assert_eq!(q.download::<half::bf16>(&x)?, [expected; 2]);
    let mut u = q.tensor(1, 3, &[rank as u32, 7, 1 << 30])?;
    world.all_reduce(q, &mut u, Reduction::Sum)?;
    let ranks = size as u32;
    assert_eq!(q.download::<u32>(&u)?, [ranks * (ranks - 1) / 2, 7 * ranks, ranks.wrapping_mul(1 << 30)]);
    let mut i = q.tensor(1, 2, &[-(rank as i32), rank as i32])?;
    world.all_reduce(q, &mut i, Reduction::Min)?;
    assert_eq!(q.download::<i32>(&i)?, [1 - size as i32, 0]);
    Ok(())
}

fn moves(world: &mut Group, q: &mut Queue) -> Result<()> {
    let (rank, size) = (world.rank(), world.size());
    let own = |r: usize| (0..6).map(move |i| (10 * r + i) as f32);
    let mine = q.tensor(2, 3, &own(rank).collect::<Vec<_>>())?;
    let mut gathered = q.empty(2 * size, 3, DType::F32)?;
    world.all_gather(q, &mine, &mut gathered)?;
    let all: Vec<f32> = (0..size).flat_map(own).collect();
    assert_eq!(q.download::<f32>(&gathered)?, all);
    let mut back = q.empty(2, 3, DType::F32)?;
    world.reduce_scatter(q, &gathered, &mut back, Reduction::Sum)?;
    assert_eq!(q.download::<f32>(&back)?, own(rank).map(|v| v * size as f32).collect::<Vec<_>>());
    world.reduce_scatter(q, &gathered, &mut back, Reduction::Max)?;
    assert_eq!(q.download::<f32>(&back)?, own(rank).collect::<Vec<_>>());
    let mut b = q.tensor(1, 2, &[rank as u32; 2])?;
    world.broadcast(q, &mut b, 1)?;
    assert_eq!(q.download::<u32>(&b)?, [1, 1]);
    let error = world.all_reduce(q, &mut b, Reduction::Max).expect_err("HCCL has no largest u32").to_string();
    assert!(error.contains("no largest or smallest of u32"), "{error}");
    // A refusal stops the queue; the group goes on with another.
    *q = Queue::new(&q.device().clone())?;
    Ok(())
}

#[test]
fn a_rank_that_does_nothing_is_named_on_the_others_and_nothing_is_left() {
    for said in on_ranks("ranks::absent", 3, "hccl_timeout=3000", &[]) {
        println!("{said}");
    }
}

#[test]
#[ignore = "started by a_rank_that_does_nothing"]
fn absent() -> Result<()> {
    let (mut world, mut q) = start()?;
    let mut x = q.tensor(1, 5, &[1.0f32; 5])?;
    world.all_reduce(&mut q, &mut x, Reduction::Sum)?;
    q.sync()?;
    if world.rank() == 1 {
        thread::sleep(Duration::from_millis(4500));
        return Ok(());
    }
    let failed = world.all_reduce(&mut q, &mut x, Reduction::Sum).and_then(|()| q.sync());
    let error = failed.expect_err("rank 1 does not come");
    let text = error.to_string();
    assert!(matches!(error, Error::Driver { code: 507_048, .. }), "{text}");
    assert!(
        text.contains("remote rank 1 did not take part") && text.contains("all_reduce/HcclAlltoAll"),
        "{text}"
    );
    assert!(matches!(q.sync(), Err(Error::Poisoned { .. })));
    Ok(())
}

#[test]
fn a_chip_or_an_installation_without_it_is_an_error_on_all_ranks() {
    for said in on_ranks("ranks::refused", 2, "fail=HcclGetRootInfo:1:4", &[]) {
        assert!(
            said.contains("refused: rank") && said.contains("HcclGetRootInfo failed with code 4"),
            "{said}"
        );
        assert!(said.contains("rank 0: ") && said.contains("LM_SAES_NPU_COMM=host"), "{said}");
    }
    for said in on_ranks("ranks::refused", 2, "fail=HcclCommInitRootInfo:1:9", &[]) {
        assert!(said.contains("HcclCommInitRootInfo failed with code 9: timeout"), "{said}");
    }
}

#[test]
#[ignore = "started by a_chip_or_an_installation_without_it"]
fn refused() -> Result<()> {
    let (mut world, mut q) = start()?;
    let mut x = q.tensor(1, 5, &[1.0f32; 5])?;
    let error = world.all_reduce(&mut q, &mut x, Reduction::Sum).expect_err("it was made to fail");
    println!("refused: {}", error.to_string().replace('\n', " "));
    Ok(())
}
