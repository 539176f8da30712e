"""What a scoring job has written, and the files that it was to score."""

import pyarrow.parquet as pq


def rows(tmp_path):
    return pq.read_table(tmp_path / "results.parquet").to_pylist()


def part(tmp_path, number=0):
    return tmp_path / "results.parquet" / f"part-{number:06}.parquet"


def image_paths(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path.relative_to(folder).as_posix() for path in files]
