//! The values in which two versions of a JSON report differ. It knows the form of tables, and neither git nor the disk.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

/// A value of a report that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ValueChange {
    /// The report.
    pub file: String,
    /// Its position: `rows[dataset=hmd,mode=fc].roc_auc`.
    pub at: String,
    /// The old value; absent if it was added.
    pub old: Option<Value>,
    /// The new value; absent if it was removed.
    pub new: Option<Value>,
    /// New minus old, if both are numbers.
    pub by: Option<f64>,
    /// The interval of the difference, if the report gives an interval for both numbers.
    pub certainty: Option<Certainty>,
    /// Whether it follows from other values of its report: an end of an interval, or a cell of a column that the table
    /// marks as `derived`.
    pub derived: bool,
}

impl ValueChange {
    /// Whether the difference has an interval, and it excludes 0.
    pub fn is_significant(&self) -> bool {
        self.certainty.is_some_and(|certainty| certainty.significant)
    }
}

/// The interval of a difference between two estimates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Certainty {
    /// Its lower end, at the level of the estimates' intervals.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// Whether it excludes 0, so that the difference is significant.
    pub significant: bool,
}

/// A number and the ends of its interval.
type Estimate = (f64, (f64, f64));

impl Certainty {
    /// Assumes independent estimates and uses the square-and-add method (Zou and Donner 2008). Estimates on the same
    /// samples are positively correlated: the true interval is narrower, so a significant difference stays
    /// significant.
    fn between((old, (old_low, old_high)): Estimate, (new, (new_low, new_high)): Estimate) -> Self {
        let by = new - old;
        let length = |a: f64, b: f64| (a * a + b * b).sqrt();
        let low = by - length(new - new_low, old_high - old);
        let high = by + length(new_high - new, old - old_low);
        Self { low, high, significant: low > 0.0 || high < 0.0 }
    }
}

/// How many values have an interval in both versions of a report, and the values that differ. `None` is a missing report;
/// values of a new or removed report are all new or removed.
pub(super) fn compare(file: &str, old: Option<&Value>, new: Option<&Value>) -> (usize, Vec<ValueChange>) {
    let flat = |value: Option<&Value>| {
        let mut found = BTreeMap::new();
        let mut order = Vec::new();
        if let Some(value) = value {
            flatten("", &with_named_cells(value, &|_, cell| plain(cell)), &mut found, &mut order);
        }
        (found, order)
    };
    let ((before, order_before), (after, order_after)) = (flat(old), flat(new));
    let gone = order_before.into_iter().filter(|at| !after.contains_key(at));
    let places: Vec<String> = order_after.into_iter().chain(gone).collect();
    let differs = places.into_iter().filter(|at| before.get(at) != after.get(at));
    let (old_ends, new_ends) = (intervals(old), intervals(new));
    let number = |value: Option<&Value>| value.and_then(Value::as_f64);
    let has_both = |at: &&String| {
        old_ends.contains_key(*at) && number(before.get(*at)).and(number(after.get(*at))).is_some()
    };
    let compared = new_ends.keys().filter(has_both).count();
    let (old_marks, new_marks) = (derived(old), derived(new));
    let is_end = |at: &str| {
        let of = at.rsplit_once("_interval.").map(|(of, _)| of);
        of.is_some_and(|of| old_ends.contains_key(of) || new_ends.contains_key(of))
    };
    let changes = differs.map(|at| {
        let (old, new) = (before.get(&at).cloned(), after.get(&at).cloned());
        let both = number(old.as_ref()).zip(number(new.as_ref()));
        let ends = old_ends.get(&at).copied().zip(new_ends.get(&at).copied());
        let certainty =
            both.zip(ends).map(|((old, new), ends)| Certainty::between((old, ends.0), (new, ends.1)));
        ValueChange {
            file: file.to_owned(),
            derived: is_end(&at) || old_marks.contains(&at) || new_marks.contains(&at),
            at,
            old,
            new,
            by: both.map(|(old, new)| new - old),
            certainty,
        }
    });
    (compared, changes.collect())
}

/// The positions of the cells of columns that a table marks as `derived`.
fn derived(report: Option<&Value>) -> BTreeSet<String> {
    let mark = |column: &Value, cell: &Value| {
        let is_derived = column.get("derived").and_then(Value::as_bool) == Some(true);
        // A cell with text names the row.
        Some(plain(cell)).filter(Value::is_string).unwrap_or(Value::Bool(is_derived))
    };
    let (mut found, mut order) = (BTreeMap::new(), Vec::new());
    if let Some(report) = report {
        flatten("", &with_named_cells(report, &mark), &mut found, &mut order);
    }
    found.into_iter().filter(|(_, value)| *value == Value::Bool(true)).map(|(at, _)| at).collect()
}

/// The intervals of a report by the position of their values: in the value's own cell, or in a column `NAME_interval`
/// next to it.
fn intervals(report: Option<&Value>) -> BTreeMap<String, (f64, f64)> {
    let (mut found, mut order) = (BTreeMap::new(), Vec::new());
    if let Some(report) = report {
        flatten("", &with_named_cells(report, &|_, cell| ends(cell)), &mut found, &mut order);
    }
    let interval = |(at, value): (String, Value)| {
        let [low, high] = value.as_array()?.as_slice() else { return None };
        let at = at.strip_suffix("_interval").map(ToOwned::to_owned).unwrap_or(at);
        Some((at, (low.as_f64()?, high.as_f64()?)))
    };
    found.into_iter().filter_map(interval).collect()
}

/// The ends of an interval as a list; for a cell with text, the text, because it names the row.
fn ends(cell: &Value) -> Value {
    let inner = cell.as_object().and_then(|fields| fields.values().next());
    match inner.and_then(|inner| inner.get("low").zip(inner.get("high"))) {
        Some((low, high)) => Value::Array(vec![low.clone(), high.clone()]),
        None => Some(plain(cell)).filter(Value::is_string).unwrap_or(Value::Null),
    }
}

/// The report with each table (`columns` with a `key` each, `rows` of as many cells) as a list of objects. The name
/// of a cell is then its column. `read` extracts the relevant part of a cell, given its column.
fn with_named_cells(value: &Value, read: &dyn Fn(&Value, &Value) -> Value) -> Value {
    let Value::Object(fields) = value else {
        return match value {
            Value::Array(items) => items.iter().map(|item| with_named_cells(item, read)).collect(),
            plain => plain.clone(),
        };
    };
    let columns = fields.get("columns").and_then(Value::as_array);
    let columns: Option<Vec<(&str, &Value)>> =
        columns.and_then(|columns| columns.iter().map(|c| Some((c.get("key")?.as_str()?, c))).collect());
    let named = |rows: &Value| -> Option<Value> {
        let columns = columns.as_ref()?;
        rows.as_array()?
            .iter()
            .map(|row| {
                let cells = row.as_array().filter(|cells| cells.len() == columns.len())?;
                let named = columns.iter().zip(cells);
                let named = named.map(|((key, column), cell)| ((*key).to_owned(), read(column, cell)));
                Some(Value::Object(named.collect()))
            })
            .collect()
    };
    let fields = fields.iter().map(|(name, value)| {
        let value =
            if name == "rows" { named(value) } else { None }.unwrap_or_else(|| with_named_cells(value, read));
        (name.clone(), value)
    });
    Value::Object(fields.collect())
}

/// The value of a cell: `{"number": {"value": 0.78, "places": 4}}` is 0.78, `{"text": "FC"}` is FC.
fn plain(cell: &Value) -> Value {
    match cell {
        Value::Object(fields) => match (fields.get("value"), fields.len()) {
            (Some(value), _) => plain(value),
            (None, 1) => fields.values().next().map_or(Value::Null, plain),
            _ => cell.clone(),
        },
        other => other.clone(),
    }
}

/// The single values of a report by position. A list of lists or of plain values (a curve, a histogram) counts as one
/// value.
fn flatten(at: &str, value: &Value, found: &mut BTreeMap<String, Value>, order: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                flatten(&at, value, found, order);
            }
        }
        Value::Array(items) if items.iter().all(Value::is_object) => {
            let names = names(items);
            for (item, name) in items.iter().zip(names) {
                flatten(&format!("{at}[{name}]"), item, found, order);
            }
        }
        plain => {
            order.push(at.to_owned());
            found.insert(at.to_owned(), plain.clone());
        }
    }
}

/// Names for the items of a list: the texts that distinguish them (`dataset=hmd,mode=fc`), so that a new row does not
/// shift the others; numbers if no texts do.
fn names(items: &[Value]) -> Vec<String> {
    let fields: Vec<&String> = match items.first().and_then(Value::as_object) {
        Some(first) => first.iter().filter(|(_, value)| value.is_string()).map(|(name, _)| name).collect(),
        None => Vec::new(),
    };
    let by_number = || (0..items.len()).map(|number| number.to_string()).collect();
    // The smallest number of fields, in their order, that distinguishes all items.
    for number in 1..=fields.len() {
        let name = |item: &Value| -> Option<String> {
            let parts: Option<Vec<String>> = fields[..number]
                .iter()
                .map(|field| Some(format!("{field}={}", item.get(field.as_str())?.as_str()?)))
                .collect();
            Some(parts?.join(","))
        };
        let Some(names) = items.iter().map(name).collect::<Option<Vec<_>>>() else { return by_number() };
        if names.iter().collect::<BTreeSet<_>>().len() == names.len() {
            return names;
        }
    }
    by_number()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn values(file: &str, old: Option<&Value>, new: Option<&Value>) -> Vec<ValueChange> {
        compare(file, old, new).1
    }

    #[test]
    fn rows_are_named_by_their_texts() {
        let old = json!({"rows": [
            {"dataset": "hmd", "mode": "fc", "auc": 0.6}, {"dataset": "hmd", "mode": "pe", "auc": 0.7}]});
        let new = json!({"rows": [
            {"dataset": "hmd", "mode": "full", "auc": 0.8},
            {"dataset": "hmd", "mode": "fc", "auc": 0.6}, {"dataset": "hmd", "mode": "pe", "auc": 0.75}]});
        let found = values("t.json", Some(&old), Some(&new));
        let found: Vec<(&str, Option<f64>)> =
            found.iter().map(|c| (c.at.as_str(), c.by.map(|by| (by * 100.0).round()))).collect();
        assert_eq!(
            found,
            [
                ("rows[dataset=hmd,mode=full].auc", None),
                ("rows[dataset=hmd,mode=full].dataset", None),
                ("rows[dataset=hmd,mode=full].mode", None),
                ("rows[dataset=hmd,mode=pe].auc", Some(5.0)),
            ]
        );
    }

    #[test]
    fn a_cell_of_a_table_is_named_by_its_row_and_column() {
        let table = |auc: f64| {
            json!({"columns": [{"key": "mode"}, {"key": "auc"}],
                "rows": [[{"text": "FC"}, {"number": {"value": auc, "places": 2}}]]})
        };
        let found = values("t.json", Some(&table(0.5)), Some(&table(0.75)));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].at.as_str(), found[0].by), ("rows[mode=FC].auc", Some(0.25)));
    }

    #[test]
    fn a_difference_of_estimates_shows_whether_it_is_significant() {
        let table = |auc: f64, half: f64, apart: bool| {
            let (low, high) = (auc - half, auc + half);
            let (value, interval) = match apart {
                true => (
                    json!({"number": {"value": auc, "places": 2}}),
                    json!({"interval": {"low": low, "high": high, "places": 2}}),
                ),
                false => (
                    json!({"estimate": {"value": auc, "low": low, "high": high, "places": 2}}),
                    json!("none"),
                ),
            };
            json!({"columns": [{"key": "mode"}, {"key": "auc"}, {"key": "auc_interval"}],
                "rows": [[{"text": "FC"}, value, interval]]})
        };
        for apart in [true, false] {
            let found = |new: f64| {
                let found = values("t", Some(&table(0.7, 0.03, apart)), Some(&table(new, 0.04, apart)));
                found.into_iter().find(|change| change.at.ends_with("].auc")).unwrap().certainty.unwrap()
            };
            let (near, far) = (found(0.74), found(0.6));
            // 0.04 more, and the root of 0.03² and 0.04² to either side.
            assert!(
                (near.low + 0.01).abs() < 1e-9 && (near.high - 0.09).abs() < 1e-9 && !near.significant,
                "{near:?}"
            );
            assert!(
                (far.low + 0.15).abs() < 1e-9 && (far.high + 0.05).abs() < 1e-9 && far.significant,
                "{far:?}"
            );
        }
    }

    #[test]
    fn what_follows_from_other_values_is_marked() {
        let table = |value: f64| {
            json!({"columns": [{"key": "run"}, {"key": "auc"}, {"key": "auc_interval"}, {"key": "z", "derived": true}],
                "rows": [[{"text": "a"}, {"number": {"value": value, "places": 2}},
                    {"interval": {"low": value - 0.1, "high": value + 0.1, "places": 2}},
                    {"number": {"value": value / 0.05, "places": 2}}]]})
        };
        let (intervals, found) = compare("t", Some(&table(0.5)), Some(&table(0.6)));
        let marked: Vec<(&str, bool)> = found.iter().map(|c| (c.at.as_str(), c.derived)).collect();
        assert_eq!(intervals, 1);
        assert_eq!(
            marked,
            [
                ("rows[run=a].auc", false),
                ("rows[run=a].auc_interval.high", true),
                ("rows[run=a].auc_interval.low", true),
                ("rows[run=a].z", true),
            ]
        );
    }

    #[test]
    fn items_without_texts_are_numbered_and_a_curve_is_one_value() {
        let old = json!([{"x": 1}, {"x": 2}]);
        let new = json!([{"x": 1}, {"x": 3, "curve": [1, 2, 3]}]);
        let at: Vec<String> = values("f", Some(&old), Some(&new)).into_iter().map(|c| c.at).collect();
        assert_eq!(at, ["[1].curve", "[1].x"]);
        assert_eq!(values("f", Some(&old), Some(&old)), []);
        assert_eq!(values("f", None, Some(&old)).len(), 2);
        assert_eq!(values("f", Some(&json!(1)), None)[0].at, "");
    }
}
