//! The spreadsheet and its labels.

use tpu_train::data::spreadsheet::Spreadsheet;
use tpu_train::data::*;

use super::maker::{BED, CHAIR, HEADER, Root, real_records};

fn parse(text: &str) -> Result<Spreadsheet, String> {
    Spreadsheet::parse("sheet.csv".as_ref(), text.as_bytes()).map_err(|e| e.to_string())
}

#[test]
fn the_real_spreadsheet() {
    let Some(folder) = real_records() else { return };
    let sheet = Spreadsheet::read(&folder.join("ECGPCGSpreadsheet.csv")).unwrap();
    assert_eq!((sheet.columns.len(), sheet.rows.len()), (13, 69));
    let names: Vec<_> = sheet.rows.iter().map(|r| r.record.clone()).collect();
    assert_eq!(names, (1..=69).map(|i| format!("ECGPCG{i:04}")).collect::<Vec<_>>());
    let row = &sheet.rows[40];
    assert_eq!(row.field("recording scenario"), Some("Exercise: walking at constant speed (3.7 km/h) "));
    assert_eq!((row.subject.as_str(), row.field("Age (years)")), ("S019", Some("26")));
}

#[test]
fn edited_copies_read_the_same() {
    let row = "ECGPCG0003,S003,0.5,28,Male,Rest: sitting on armchair,2,\"Good, mostly\",Good,NA,NA,NA,note";
    let plain = parse(&format!("{HEADER}\r\n{row}\r\n")).unwrap();
    let empty = ",".repeat(32);
    for text in [
        format!("{HEADER}{empty}\r\n{row}{empty}\r\n{}\n", ",".repeat(44)),
        format!("\u{feff}{HEADER}\n{row}\n\n\n"),
        format!("{HEADER}\n{row}"),
        format!("{HEADER},,\r\n{row}\r\n"),
    ] {
        assert_eq!(parse(&text).unwrap().rows, plain.rows);
    }
    let lower = parse(&format!("{}\n{}\n", HEADER.to_lowercase(), row.to_lowercase())).unwrap();
    assert_eq!(lower.rows[0].field("Subject ID"), Some("s003"));
    let other = parse(" recording scenario , SUBJECT id,record NAME\nx, S1 , R1 \n").unwrap();
    assert_eq!((other.rows[0].record.as_str(), other.rows[0].subject.as_str()), ("R1", "S1"));
    assert_eq!(parse("Record Name,Subject ID\nR1\n").unwrap().rows[0].subject, "");
}

#[test]
fn errors_say_what_is_wrong() {
    for (bytes, part) in [
        (&b"record name,subject id\nA,1\nB,J\xe9\n"[..], "line 3 holds the byte 0xe9, which is not UTF-8"),
        (b"\xff\xfer\0e\0", "the file is UTF-16"),
    ] {
        let error = Spreadsheet::parse("sheet.csv".as_ref(), bytes).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    for (text, part) in [
        ("", "the file is empty"),
        (" \r\n \n", "the file is empty"),
        ("a,b\n1,2\n", "no column \"Record Name\": found \"a\", \"b\""),
        ("record name,b\n1,2\n", "no column \"Subject ID\": found \"record name\", \"b\""),
        ("record name,subject id\n", "no recordings"),
        ("record name,subject id\n,,\n", "no recordings"),
        ("record name,subject id\nA,1\n,2\n", "line 3 has no Record Name"),
        ("record name,subject id\nA,1\nB,1\nA,2\n", "line 4 names recording A again, first on line 2"),
        ("record name,subject id\n../A,1\n", "is no file name"),
        ("record name,subject id\r\rA,1\rA,2\r", "line 4 names recording A again, first on line 3"),
        ("record name,subject id\nA,1\nB,\"1\nC,1\n", "line 3 opens a quote that is never closed"),
        ("record name,subject id\nA,\"1", "line 2 opens a quote that is never closed"),
        ("record name,\"subject id\nA,1\n", "the header line opens a quote"),
        ("record name,subject id\nA,1,note\n", "line 2 has 3 cells, the header 2"),
        ("record name;subject id\nA;1\n", "separated by ';', expected commas"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(part) && error.contains("sheet.csv"), "{text:?}: {error}");
    }
}

fn labelled() -> Root {
    let mut root = Root::new();
    root.recording("A1", "S1", "exercise: WALKING at constant speed (3.7 km/h) and more", 100);
    root.recording("A2", "S2", " Rest: Laying on bed", 100);
    root.recording("A3", "S2", "Exercise: slow walk (7 min)", 100);
    root.recording("A4", "S3", CHAIR, 100);
    root.row("A5", "S4", "Exercise: bicycle stress test");
    root
}

#[test]
fn scenarios_match_by_prefix_and_classes_are_those_present() {
    let root = labelled();
    let prepared = root.prepare();
    assert_eq!(prepared.recordings().len(), 3, "the row without a class is not prepared");
    assert_eq!(prepared.warnings().len(), 2, "{:?}", prepared.warnings());
    assert!(prepared.warnings()[0].contains("1 of 5") && prepared.warnings()[0].contains("A5"));
    assert!(prepared.warnings()[1].contains("1 of 5") && prepared.warnings()[1].contains("A3"));
    let table =
        WindowTable::new(&prepared, 50, 50, &LabelRule::Scenario, RecordingOrder::Spreadsheet).unwrap();
    let expected =
        ["rest: laying on bed", "rest: sitting on armchair", "exercise: walking at constant speed"];
    assert_eq!(table.classes, expected);
    assert_eq!(table.windows.iter().map(|w| w.label).collect::<Vec<_>>(), [2, 2, 0, 0, 1, 1]);
}

#[test]
fn the_source_rule_compares_exactly() {
    let prepared = labelled().prepare_as(LabelRule::SourceScenario);
    let names: Vec<_> = prepared.recordings().iter().map(|r| r.shard.name.as_str()).collect();
    assert_eq!(names, ["A4"]);
}

#[test]
fn any_column_can_be_learnt() {
    let root = labelled();
    let prepared = root.prepare_as(LabelRule::Column("SUBJECT ID ".into()));
    assert_eq!(prepared.recordings().len(), 4);
    let rule = LabelRule::Column("subject id".into());
    let table = WindowTable::new(&prepared, 100, 1, &rule, RecordingOrder::Spreadsheet).unwrap();
    assert_eq!(table.classes, ["S1", "S2", "S3"]);
    let model = ["S3", "S2", "S1", "S0"].map(String::from);
    let table = table.with_classes(&model).unwrap();
    assert_eq!(table.windows.iter().map(|w| w.label).collect::<Vec<_>>(), [2, 1, 1, 0]);
    assert!(table.with_classes(&model[1..]).unwrap_err().to_string().contains("\"S3\""));

    let mut options = root.options();
    options.rule = LabelRule::Column("Subjects".into());
    let error = prepare(&options, &|_| {}).unwrap_err().to_string();
    assert!(error.contains("no column \"Subjects\"") && error.contains("\"Subject ID\""), "{error}");
    options.rule = LabelRule::Column("Database Housekeeping".into());
    let error = prepare(&options, &|_| {}).unwrap_err().to_string();
    assert!(error.contains("no recording left") && error.contains("Database Housekeeping"), "{error}");
}

#[test]
fn a_set_made_for_one_rule_serves_another() {
    let root = labelled();
    assert_eq!(root.prepare_as(LabelRule::Column("Subject ID".into())).recordings().len(), 4);
    let prepared = root.prepare();
    assert_eq!(prepared.recordings().len(), 4, "what is valid is kept");
    let table =
        WindowTable::new(&prepared, 100, 100, &LabelRule::Scenario, RecordingOrder::Spreadsheet).unwrap();
    assert_eq!((table.len(), table.unlabelled), (3, vec!["A3".to_owned()]));
}

#[test]
fn nothing_left_is_an_error() {
    let mut root = Root::new();
    assert!(root.prepare_error().contains("no recordings"));
    root.row("A1", "S1", BED);
    let error = root.prepare_error();
    assert!(error.contains("no recording left") && error.contains("1 of 1"), "{error}");
    let mut other = Root::new();
    other.recording("A1", "S1", "Exercise: yoga", 100);
    assert!(other.prepare_error().contains("belong to no class"));
}
