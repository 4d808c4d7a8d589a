//! Reading a dump in SQL, for tests that search one.

/// One row: its table, and its values as bytes.
pub struct Row {
    pub table: String,
    pub values: Vec<Vec<u8>>,
}

impl Row {
    pub fn schema(&self) -> &str {
        self.table.split('.').next().unwrap_or_default()
    }
}

/// The rows of a dump ([`crate::Cluster::dump`]).
pub fn rows(dump: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut lines = dump.lines();
    while let Some(line) = lines.next() {
        let Some(table) = line.strip_prefix("COPY ").and_then(|rest| rest.split(' ').next()) else {
            continue;
        };
        for row in lines.by_ref().take_while(|row| *row != "\\.") {
            let values = row.split('\t').map(|value| {
                let bytes = value.strip_prefix("\\\\x").and_then(|digits| hex::decode(digits).ok());
                bytes.unwrap_or_else(|| value.as_bytes().to_vec())
            });
            rows.push(Row { table: table.to_owned(), values: values.collect() });
        }
    }
    rows
}

/// Whether a value is a date: those are equal by chance.
pub fn is_date(value: &[u8]) -> bool {
    value.len() == 10 && value[4] == b'-' && value[7] == b'-'
}
