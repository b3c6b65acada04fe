//! Values by unit of work: what a step reports while it runs, and what its result may keep of that.

/// All values of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalars {
    /// The name, as [`Progress::scalar`](crate::Progress::scalar) has it.
    pub name: String,
    /// The unit of work, such as an update, and the value; `None` where it is not a number. Units increase.
    pub points: Vec<(u64, Option<f64>)>,
}

impl Scalars {
    /// Values by unit of work; infinite ones and NaN become `None`.
    pub fn new(name: &str, points: impl Iterator<Item = (u64, f64)>) -> Self {
        let points = points.map(|(at, value)| (at, Some(value).filter(|value| value.is_finite())));
        Self { name: name.to_owned(), points: points.collect() }
    }
}
