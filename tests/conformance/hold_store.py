"""Another program that holds a store: locks the SQLite file it is given, says so, and lets go when its standard input ends."""

import sqlite3
import sys

store = sqlite3.connect(sys.argv[1], isolation_level=None)
store.execute("PRAGMA locking_mode = EXCLUSIVE")
store.execute("BEGIN IMMEDIATE")
# Written as it is: in this mode the file is only locked once something was.
store.execute(f"PRAGMA user_version = {store.execute('PRAGMA user_version').fetchone()[0]}")
store.execute("COMMIT")
# In one piece, for those who read once.
sys.stdout.write("locked\n")
sys.stdout.flush()
sys.stdin.read()
