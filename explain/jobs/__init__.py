"""The explanation queue: jobs in Redis, results in a store, workers, and the clients of both."""
