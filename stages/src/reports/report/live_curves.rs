//! The curves of a run that has not finished: what it has measured so far. It does not know how far the run will go.

use crate::artifacts::scalars::{LOSS, ROC_AUC, Scalars};
use crate::reports::figure::{self, Figure, LegendColumn, Line, Panel, Scale, Style};

/// What is drawn, and what its axis says.
const DRAWN: [(&str, &str); 2] = [(LOSS, "training cross-entropy (nats)"), (ROC_AUC, "ROC-AUC (validation)")];

/// Updates and the values measured at them.
type Points = [(u64, Option<f64>)];

/// The figure as SVG; `None` while there is nothing to draw.
pub fn svg(step: &str, measured: &[Scalars]) -> Option<String> {
    let found: Vec<(&str, &Points)> = DRAWN
        .iter()
        .filter_map(|(name, label)| {
            let scalars = measured.iter().find(|scalars| scalars.name == *name)?;
            (scalars.points.len() > 1).then_some((*label, scalars.points.as_slice()))
        })
        .collect();
    let end = found.iter().filter_map(|(_, points)| points.last()).map(|(update, _)| *update).max()?;
    let share = |update: u64| update as f64 / end.max(1) as f64;
    let panel = |(label, points): &(&str, &Points)| Panel {
        y_label: (*label).to_owned(),
        logarithmic: false,
        level: None,
        bottom: Scale { label: "updates so far".to_owned(), end: end as f64 },
        top: None,
        lines: vec![Line {
            style: Style::for_kind("", false),
            marked: false,
            points: points.iter().map(|(at, value)| (share(*at), value.unwrap_or(f64::NAN))).collect(),
            says: vec![],
            band: vec![],
            best: None,
        }],
    };
    Some(figure::svg(&Figure {
        name: "so-far".to_owned(),
        title: format!("{step} so far"),
        caption: String::new(),
        panels: found.iter().map(panel).collect(),
        legend: Vec::<LegendColumn>::new(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_drawn_and_one_point_is_no_curve() {
        let scalars = |name: &str, points: &[(u64, Option<f64>)]| Scalars {
            name: name.into(),
            points: points.to_vec(),
        };
        let loss = scalars(LOSS, &[(20, Some(0.7)), (40, None), (60, Some(0.5)), (80, Some(0.4))]);
        assert_eq!(svg("hmd-pe-train", &[scalars(LOSS, &loss.points[..1])]), None);
        let drawn = svg("hmd-pe-train", &[loss.clone(), scalars(ROC_AUC, &[(60, Some(0.6))])]).unwrap();
        assert!(drawn.contains("hmd-pe-train so far") && drawn.contains("updates so far"), "{drawn}");
        assert!(drawn.contains("<polyline") && !drawn.contains("NaN"), "{drawn}");
        assert!(!drawn.contains("ROC-AUC"), "{drawn}");
    }
}
