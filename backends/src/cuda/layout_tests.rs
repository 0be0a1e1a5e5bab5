//! The structs of kernels/cuda/ops.cuh are those of the runtime: sizes asserted there are the sizes here. Order of fields is
//! what the conformance table would find.

use lm_saes_runtime::op;

#[test]
fn op_structs_have_the_sizes_the_kernels_assert() {
    let text = include_str!("../../../kernels/cuda/ops.cuh");
    let asserted = |name: &str| -> usize {
        let start = format!("static_assert(sizeof({name}) == ");
        let rest = text.split_once(&start).unwrap_or_else(|| panic!("no assertion for {name}")).1;
        rest.split(',').next().and_then(|n| n.parse().ok()).expect("a number")
    };
    macro_rules! check {
        ($($name:ident)*) => { $(assert_eq!(asserted(stringify!($name)), size_of::<op::$name>(), stringify!($name));)* };
    }
    check!(Mat Sparse ByColumn Gemm Copy Gather Map Reduce Norm CrossEntropy Rope Attention AttentionGrad TopK Threshold
        Compact Gate GateGrad Penalty ThresholdPenalty SparseMul Scatter Confine SparseDot SortByColumn SparseOuter
        Activity Age Adam Random);
}

#[test]
fn failure_tags_are_the_ops_own() {
    let text = include_str!("../../../kernels/cuda/ops.cuh");
    for (i, name) in lm_saes_runtime::Op::NAMES.iter().enumerate() {
        let mut tag = String::from("TAG");
        for c in name.chars() {
            if c.is_uppercase() {
                tag.push('_');
            }
            tag.push(c.to_ascii_uppercase());
        }
        if let Some((_, rest)) = text.split_once(&format!("{tag} = ")) {
            let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
            assert_eq!(number, (i + 1).to_string(), "{tag}");
        }
    }
}
