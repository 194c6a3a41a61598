"""One run: parameters -> a folder with the trained adapter, its history, its items and its result.

parameters, profiles, inputs   what a run is asked for, and what follows from it
bases                          loading one, or having it ready for copies of this process
job                            the stages of a run, which notebooks/20_run_one_row.ipynb calls
run_job, notebook              that notebook by papermill, in a process and a kernel of its own
lock, progress, provenance     one process a folder; how far it is; what it ran with
"""
