"""Many devices at once: Dask distributed schedules the runs, edgesdk only submits them."""
