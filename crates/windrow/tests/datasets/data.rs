//! The data sets: their files, how they are sent, and what must come out. The real ones lie beside the repository, in
//! `../shared/data`; where they are absent, small ones of the same form are made.

use std::path::{Path, PathBuf};

use jiff::{Timestamp, ToSpan};

use crate::figures::{self, Expected};

const EPOCH: &str = "2026-03-02T08:00:00Z";

/// Where the files are.
pub struct Folder {
    path: PathBuf,
    is_real: bool,
    /// Keeps made files as long as they are needed.
    _made: Option<tempfile::TempDir>,
}

impl Folder {
    pub fn find() -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
        if path.is_dir() {
            return Self { path, is_real: true, _made: None };
        }
        println!("skipped: ../shared/data is absent; small files of the same form are used instead");
        let made = tempfile::tempdir().unwrap();
        make(made.path());
        Self { path: made.path().to_owned(), is_real: false, _made: Some(made) }
    }

    /// Files of a folder whose names begin so, in order.
    fn files(&self, folder: &str, prefix: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> =
            entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix)).collect();
        files.sort();
        files
    }
}

/// One data set with its job, an example of the same name.
pub struct DataSet {
    pub job: &'static str,
    pub topic: &'static str,
    pub files: Vec<PathBuf>,
    /// Of `windrow send`.
    pub args: Vec<&'static str>,
    pub expected: Expected,
}

impl DataSet {
    pub fn all(folder: &Folder) -> Vec<Self> {
        let sets = vec![
            Self::detectors(folder),
            Self::metro(folder),
            Self::air(folder),
            Self::trips(folder),
            Self::shifts(folder),
        ];
        if folder.is_real {
            // The data sets as their descriptions know them.
            let rows: Vec<u64> = sets.iter().map(|set| set.expected.rows).collect();
            assert_eq!(rows, [6_007, 48_204, 9_357, 9_143, 22_695]);
            assert_eq!(sets[1].expected.removed, 7_629);
        }
        sets
    }

    fn detectors(folder: &Folder) -> Self {
        let files = folder.files("traffic", "nab_");
        let args = vec!["--device-from-filename", "--time-column", "timestamp", "--time-zone", "America/Chicago"];
        Self { job: "detectors", topic: "detectors", expected: figures::detectors(&files), files, args }
    }

    fn metro(folder: &Folder) -> Self {
        let files = folder.files("traffic", "metro");
        let args = "--device|i94|--time-column|date_time|--time-format|%d/%m/%Y %H:%M|--time-zone|America/Chicago|--seq|time|\
                    --tags|weather_main|--values|traffic_volume,temp";
        let args = args.split('|').collect();
        Self { job: "metro", topic: "metro", expected: figures::metro(&files[0]), files, args }
    }

    fn air(folder: &Folder) -> Self {
        let files = folder.files("air-quality", "AirQuality");
        let args = "--device|street|--time-column|Date,Time|--time-format|%d/%m/%Y %H.%M.%S|--time-zone|Europe/Rome|\
                    --decimal-comma|--missing|-200|--values|co=CO(GT),benzene=C6H6(GT),no2=NO2(GT),t=T,rh=RH";
        let args = args.split('|').collect();
        Self { job: "air-quality", topic: "air", expected: figures::air(&files[0]), files, args }
    }

    fn shifts(folder: &Folder) -> Self {
        let files = folder.files("machine-temperature", "machine");
        let args = "--device|press|--time-column|timestamp|--time-zone|America/New_York|--seq|time";
        let args = args.split('|').collect();
        Self { job: "shifts", topic: "machine", expected: figures::shifts(&files[0]), files, args }
    }

    fn trips(folder: &Folder) -> Self {
        let files = folder.files("vehicles", "drive");
        let args = "--device-from-filename|--time-column|ENGINE_RUN_TINE ()|--time-format|unix|--epoch|2026-03-02T08:00:00Z|\
                    --values|rpm=ENGINE_RPM (),speed=VEHICLE_SPEED (),coolant=COOLANT_TEMPERATURE ()";
        let args = args.split('|').collect();
        let expected = figures::trips(&files, EPOCH.parse().unwrap());
        Self { job: "trips", topic: "trips", expected, files, args }
    }
}

fn write(folder: &Path, name: &str, lines: impl Iterator<Item = String>, end: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, lines.map(|line| line + end).collect::<String>()).unwrap();
}

/// Small files with what makes the real ones hard: repeated and local times, an hour that the clock skips, decimal commas,
/// markers for missing values, times that are seconds of a trip, commas at the end of lines.
fn make(folder: &Path) {
    let first: Timestamp = "2015-03-06T00:00:00Z".parse().unwrap();
    let hour = |i: i64, form: &str| (first + i.hours()).strftime(form).to_string();
    for (device, step) in [("nab_a", 3), ("nab_b", 5)] {
        let rows = (0..60).map(|i| format!("{},{}.{:02}", hour(i * step, "%Y-%m-%d %H:%M:%S"), i % 7, i));
        let lines = std::iter::once("timestamp,value".to_owned()).chain(rows);
        write(folder, &format!("traffic/{device}.csv"), lines, "\n");
    }
    let header = "holiday,temp,rain_1h,snow_1h,clouds_all,weather_main,weather_description,date_time,traffic_volume";
    let rows = (0..1_000).flat_map(|i| {
        let row = format!(
            "None,{},0,0,1,Clouds,few,{},{}",
            (i % 40) as f64 * 7.25,
            hour(i, "%d/%m/%Y %H:%M"),
            i * 37 % 5_000
        );
        std::iter::repeat_n(row, if i % 9 == 0 { 2 } else { 1 })
    });
    let lines = std::iter::once(header.to_owned()).chain(rows);
    write(folder, "traffic/metro_made.csv", lines, "\n");
    let header = "\u{feff}Date,Time,CO(GT),PT08.S1(CO),NMHC(GT),C6H6(GT),PT08.S2(NMHC),NOx(GT),PT08.S3(NOx),NO2(GT),PT08.S4(NO2),PT08.S5(O3),T,RH,AH";
    let rows = (0..600).map(|i| {
        let co = if i % 11 == 0 { "-200".to_owned() } else { format!("\"{},{}\"", i % 5, i % 10) };
        let no2 = if i % 13 == 0 { -200 } else { i };
        let (day, time) = (hour(i, "%d/%m/%Y"), hour(i, "%H.00.00"));
        format!("{day},{time},{co},1,1,\"{},5\",1,1,1,{no2},1,1,\"{},1\",\"4{},0\",\"0,7\"", i % 30, i % 25 - 5, i % 10)
    });
    write(folder, "air-quality/AirQualityMade.csv", std::iter::once(header.to_owned()).chain(rows), "\r\n");
    // Christmas and a weekend.
    let first: Timestamp = "2013-12-23T08:00:00Z".parse().unwrap();
    let rows = (0..1_500).map(|i| {
        let time = (first + (i * 5_i64).minutes()).strftime("%Y-%m-%d %H:%M:%S");
        format!("{time},{}.{:02}", 60 + i % 50, i % 97)
    });
    let lines = std::iter::once("timestamp,value".to_owned()).chain(rows);
    write(folder, "machine-temperature/machine_made.csv", lines, "\n");
    for (device, step) in [("drive1", 1), ("drive2", 2)] {
        let header =
            "ENGINE_RUN_TINE (),ENGINE_RPM (),VEHICLE_SPEED (),THROTTLE (),ENGINE_LOAD (),COOLANT_TEMPERATURE ()";
        let rows = (0..900).map(|i| {
            let (second, speed, coolant) = (i / 2 * 2 * step, i * 3 % 90, 20 + i / 15);
            format!("{second}.000000, {}.750000, {speed}.000000, 1.000000, 0.000000, {coolant}.000000,", i * 7 % 3_000)
        });
        write(folder, &format!("vehicles/{device}.csv"), std::iter::once(header.to_owned()).chain(rows), "\r\n");
    }
}
