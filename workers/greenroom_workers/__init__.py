"""The worker process: wakes at the bell, claims runs, executes graphs, keeps leases alive."""
