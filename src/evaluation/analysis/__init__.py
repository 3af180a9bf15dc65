"""What the records say: statistics, trends, and the tables made of them. Measures nothing and draws nothing."""
