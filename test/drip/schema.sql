create schema app;
create table app.users (id int primary key, email text not null, plan text not null default 'free');
create table app.payments (payment_id int generated always as identity primary key, user_id int not null, amount int not null);
create table app.mails (run_id bigint, recipient text, text text, key text, at timestamptz default clock_timestamp());
create table app.notes (run_id bigint, text text, at timestamptz default clock_timestamp());
insert into app.users values (1, 'ann@example.com', 'admin'), (2, 'bea@example.com', 'admin');
