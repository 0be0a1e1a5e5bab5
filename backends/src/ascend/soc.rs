//! What the chips differ in, by the name the runtime gives them.

/// A family of chips, as a bit so that tables can hold sets of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Family(pub(super) u8);

impl Family {
    /// Atlas A2: Ascend 910B1 and its kin.
    pub(super) const A2: Self = Self(1);
    /// Atlas A3: Ascend 910_93xx.
    pub(super) const A3: Self = Self(2);
    /// Ascend 950.
    pub(super) const A5: Self = Self(4);
    /// The first generation: Ascend 910A, and 910B without a digit.
    pub(super) const FIRST: Self = Self(8);
    /// Ascend 310P.
    pub(super) const INFERENCE: Self = Self(16);
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Soc {
    pub(super) family: Family,
    /// For people.
    pub(super) name: &'static str,
    /// Has bf16.
    pub(super) bf16: bool,
    /// Multiplies matrices of f32 in f32; the others only after rounding them to f16.
    pub(super) exact: bool,
    /// Records a stream into a graph.
    pub(super) graphs: bool,
    /// Adds bytes behind every allocation by itself, for kernels that read past the end.
    pub(super) pads: bool,
    /// aclnnEmbeddingBag takes its unused output of maxima with one element for each bag; the others take none.
    pub(super) bag_maxima: bool,
}

const SOCS: [Soc; 5] = [
    row(Family::A2, "Atlas A2", true, true, true, true, true),
    row(Family::A3, "Atlas A3", true, true, true, true, true),
    row(Family::A5, "Ascend 950", true, true, true, false, false),
    row(Family::FIRST, "first generation", false, false, false, true, true),
    row(Family::INFERENCE, "Ascend 310P", false, false, false, true, true),
];

const fn row(
    family: Family,
    name: &'static str,
    bf16: bool,
    exact: bool,
    graphs: bool,
    pads: bool,
    bag_maxima: bool,
) -> Soc {
    Soc { family, name, bf16, exact, graphs, pads, bag_maxima }
}

impl Soc {
    /// The row of a chip; `None` for one that no operator is documented for.
    ///
    /// `Ascend910B` is of the first generation, `Ascend910B` with a digit is not: a prefix does not tell.
    pub(super) fn of(chip: &str) -> Option<Self> {
        let digit = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
        let family = match chip.strip_prefix("Ascend")? {
            c if c.starts_with("910_93") => Family::A3,
            c if c.strip_prefix("910B").is_some_and(digit) => Family::A2,
            c if c.starts_with("950") => Family::A5,
            "910B" => Family::FIRST,
            c if c.starts_with("910A") || c.starts_with("910P") => Family::FIRST,
            c if c.starts_with("310P") => Family::INFERENCE,
            _ => return None,
        };
        SOCS.into_iter().find(|s| s.family == family)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digit_after_910b_is_another_generation() {
        let names = |chips: &[&str]| -> Vec<_> { chips.iter().map(|c| Soc::of(c).map(|s| s.name)).collect() };
        let second = ["Ascend910B1", "Ascend910B2C", "Ascend910B4-1"];
        assert_eq!(names(&second), [Some("Atlas A2"); 3]);
        let first = ["Ascend910A", "Ascend910B", "Ascend910ProB", "Ascend910PremiumA"];
        assert_eq!(names(&first), [Some("first generation"); 4]);
        let others = ["Ascend910_9362", "Ascend950PR_9599", "Ascend310P3"];
        assert_eq!(names(&others), [Some("Atlas A3"), Some("Ascend 950"), Some("Ascend 310P")]);
        assert_eq!(names(&["Ascend310B4", "Hopper", ""]), [None; 3]);
    }
}
