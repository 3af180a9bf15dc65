"""This run and the published ones, in tidy tables."""


rule aggregate:
    input:
        expand(
            "src/evaluation/analysis/{name}.py",
            name=["aggregate", "outcomes", "statistics", "summary"],
        ),
        module("records/runs"),
        [record(job) for job in STUDY.jobs()],
        # not in the table, but of the run, which is refused if its parts were measured by different code
        side_records(),
        f"{LOCAL}/study.json",
        rules.probe.output,
        [
            str(path)
            for run in PUBLISHED
            for path in sorted(Path(run_directory(run)).rglob("*"))
            if path.is_file()
        ],
    output:
        **{table: f"results/{table}.csv" for table in BESIDE_SUMMARY},
        summary=report(
            "results/summary.csv", caption="captions/summary.rst", category="Tables"
        ),
    log:
        "logs/aggregate.log",
    conda:
        ENVIRONMENT
    params:
        folder=lambda wildcards, output: os.path.dirname(output.summary),
        runs=[run_directory(run) for run in [*PUBLISHED, "local"]],
    shell:
        "python3 -m evaluation.analysis.aggregate --out {params.folder} {params.runs} > {log} 2>&1"
